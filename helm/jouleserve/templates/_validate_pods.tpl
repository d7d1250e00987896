{{/*
What values hand on to pods, as far as Kubernetes would refuse it, or take it and do something else.
*/}}
{{- define "jouleserve.validate.pods" -}}
{{- $check := . -}}
{{- $head := dict "check" . "group" "" "context" (dict "root" .root "settings" .root.Values.head "head" true) "volumes" list "mounts" list -}}
{{- include "jouleserve.validate.pod" $head }}
{{- include "jouleserve.validate.resources" (list . "autoscaler.resources" .root.Values.autoscaler.resources) }}
{{- range .groups }}
{{- include "jouleserve.validate.pod" (dict "check" $check "group" .name "context" (dict "root" $check.root "settings" .settings "head" false) "volumes" (list "shm") "mounts" (list "/dev/shm")) }}
{{- end }}
{{- end }}

{{- define "jouleserve.validate.pod" -}}
{{- include "jouleserve.validate.resources" (list .check (include "jouleserve.at" (list .check.root .group "resources")) .context.settings.resources) }}
{{- include "jouleserve.validate.labels" . }}
{{- include "jouleserve.validate.variables" . }}
{{- include "jouleserve.validate.volumes" . }}
{{- include "jouleserve.validate.initContainers" . }}
{{- end }}

{{/* Takes a check, where the section stands, and what it says. */}}
{{- define "jouleserve.validate.resources" -}}
{{- $check := index . 0 -}}
{{- $at := index . 1 -}}
{{- $resources := index . 2 -}}
{{- $limits := $resources.limits | default dict -}}
{{- range $name, $given := $resources.requests }}
{{- if hasKey $limits $name }}
{{- $limit := get $limits $name -}}
{{- if gt (include "jouleserve.amount" $given | float64) (include "jouleserve.amount" $limit | float64) }}
{{- include "jouleserve.fault" (list $check (printf "%s.requests.%s" $at $name) (printf "%v is more than the limit %v" $given $limit)) }}
{{- end }}
{{- else if contains "/" $name }}
{{- include "jouleserve.fault" (list $check (printf "%s.requests.%s" $at $name) "is given to a pod by limits only: give the same there") }}
{{- end }}
{{- end }}
{{- if hasPrefix "worker" $at }}
{{- range $kind, $given := $resources }}
{{- range $name, $_ := $given }}
{{- if hasPrefix "nvidia.com/" $name }}
{{- include "jouleserve.fault" (list $check (printf "%s.%s.%s" $at $kind $name) "GPUs come from config.node_groups: accelerators_per_node, workers_per_node, and gpuResource of the worker group") }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Services, budgets and policies find pods by labels that are the chart's. */}}
{{- define "jouleserve.validate.labels" -}}
{{- $one := . -}}
{{- range $name, $_ := .context.settings.labels }}
{{- if or (hasPrefix "ray.io/" $name) (has $name (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "jouleserve.dev/node-group")) }}
{{- include "jouleserve.fault" (list $one.check (printf "%s.%s" (include "jouleserve.at" (list $one.check.root $one.group "labels")) $name) "is set already, and pods are found by it: choose another") }}
{{- end }}
{{- end }}
{{- end }}

{{/* Each once: server-side apply refuses two of a name. */}}
{{- define "jouleserve.validate.variables" -}}
{{- $one := . -}}
{{- $own := list "RAY_enable_autoscaler_v2" "RAY_REDIS_ADDRESS" "REDIS_PASSWORD" "REDIS_USERNAME" -}}
{{- range include "jouleserve.environment" .context.root | fromYamlArray }}{{ $own = append $own .name }}{{ end -}}
{{- $seen := list -}}
{{- range $i, $variable := .context.settings.env }}
{{- $at := printf "%s[%d]" (include "jouleserve.at" (list $one.check.root $one.group "env")) $i -}}
{{- if has .name $own }}
{{- include "jouleserve.fault" (list $one.check (printf "%s.name" $at) (printf "%s is set already, by the chart or by KubeRay" .name)) }}
{{- else if has .name $seen }}
{{- include "jouleserve.fault" (list $one.check (printf "%s.name" $at) (printf "%s is given twice" .name)) }}
{{- end }}
{{- if and (hasKey . "value") (hasKey . "valueFrom") }}
{{- include "jouleserve.fault" (list $one.check (printf "%s.valueFrom" $at) "there is a value already: give one of the two") }}
{{- end }}
{{- $seen = append $seen .name -}}
{{- end }}
{{- end }}

{{- define "jouleserve.validate.volumes" -}}
{{- $one := . -}}
{{- $volumes := .volumes -}}
{{- $given := len (.context.settings.volumes | default list) -}}
{{- $all := include "jouleserve.volumes" .context | fromYamlArray -}}
{{- range $i, $volume := $all }}
{{- if has .name $volumes }}
{{- include "jouleserve.fault" (list $one.check (printf "%s[%d].name" (include "jouleserve.at" (list $one.check.root $one.group "volumes")) (sub $i (sub (len $all) $given))) (printf "there is a volume %q already" .name)) }}
{{- end }}
{{- $volumes = append $volumes .name -}}
{{- end }}
{{- $places := .mounts -}}
{{- $given = len (.context.settings.volumeMounts | default list) -}}
{{- $all = include "jouleserve.mounts" .context | fromYamlArray -}}
{{- range $i, $mount := $all }}
{{- $at := printf "%s[%d]" (include "jouleserve.at" (list $one.check.root $one.group "volumeMounts")) (sub $i (sub (len $all) $given)) -}}
{{- if not (has .name $volumes) }}
{{- include "jouleserve.fault" (list $one.check (printf "%s.name" $at) (printf "there is no volume %q" .name)) }}
{{- end }}
{{- if has .mountPath $places }}
{{- include "jouleserve.fault" (list $one.check (printf "%s.mountPath" $at) (printf "%s is taken already" .mountPath)) }}
{{- end }}
{{- $places = append $places .mountPath -}}
{{- end }}
{{- end }}

{{- define "jouleserve.validate.initContainers" -}}
{{- $one := . -}}
{{- $seen := list "ray-head" "ray-worker" "autoscaler" "wait-gcs-ready" -}}
{{- range $i, $container := .context.settings.initContainers }}
{{- $at := printf "%s[%d]" (include "jouleserve.at" (list $one.check.root $one.group "initContainers")) $i -}}
{{- if has .name $seen }}
{{- include "jouleserve.fault" (list $one.check (printf "%s.name" $at) (printf "there is a container %q already" .name)) }}
{{- end }}
{{- if not .image }}
{{- include "jouleserve.fault" (list $one.check (printf "%s.image" $at) "must be given") }}
{{- end }}
{{- $seen = append $seen .name -}}
{{- end }}
{{- end }}

{{/* Streams end before their pod does. */}}
{{- define "jouleserve.validate.grace" -}}
{{- $check := . -}}
{{- $grace := .root.Values.terminationGracePeriodSeconds -}}
{{- $drains := dict "config.gateway.drain_timeout_s" (dig "gateway" "drain_timeout_s" .rules.defaults.gateway.drain_timeout_s .root.Values.config) -}}
{{- range $i, $model := .root.Values.config.models }}
{{- range $j, $variant := .variants }}
{{- $_ := set $drains (printf "config.models[%d].variants[%d].drain_timeout_s" $i $j) (.drain_timeout_s | default $check.rules.defaults.variant.drain_timeout_s) -}}
{{- end }}
{{- end }}
{{- range $key, $drain := $drains }}
{{- if le (float64 $grace) (float64 $drain) }}
{{- include "jouleserve.fault" (list $check "terminationGracePeriodSeconds" (printf "%d s are not more than %s, %v: streams would be cut" (int $grace) $key $drain)) }}
{{- end }}
{{- end }}
{{- end }}
