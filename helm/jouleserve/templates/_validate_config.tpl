{{/*
What serve/config.py and serve/config_planner.py refuse, so that nobody finds out in a pod. A test
holds the two together.
*/}}
{{- define "jouleserve.validate.config" -}}
{{- $check := . -}}
{{- $config := .root.Values.config -}}
{{- $gateway := mergeOverwrite (deepCopy .rules.defaults.gateway) ($config.gateway | default dict) -}}
{{- $scheduler := mergeOverwrite (deepCopy .rules.defaults.scheduler) ($config.scheduler | default dict) -}}
{{- $planner := mergeOverwrite (deepCopy .rules.defaults.planner) ($config.planner | default dict) -}}
{{- if eq (int $gateway.grpc_port) (int $gateway.http_port) }}
{{- include "jouleserve.fault" (list . "config.gateway.http_port" (printf "%d is also grpc_port: give them two ports" (int $gateway.http_port))) }}
{{- end }}
{{- if lt (float64 $scheduler.stale_after_s) (mulf 2 $scheduler.report_period_s) }}
{{- include "jouleserve.fault" (list . "config.scheduler.stale_after_s" (printf "%v would call every replica stale: at least twice report_period_s, %v" $scheduler.stale_after_s (mulf 2 $scheduler.report_period_s))) }}
{{- end }}
{{- if and (eq $planner.autoscaler "planner") (ne $planner.nodes "kubernetes") }}
{{- include "jouleserve.fault" (list . "config.planner.nodes" "must be kubernetes: here every node group is a worker group") }}
{{- end }}
{{- $models := dict -}}
{{- $variants := dict -}}
{{- range $i, $model := $config.models }}
{{- $_ := set $models .name (add1 (get $models .name | default 0)) -}}
{{- range $j, $variant := .variants }}
{{- $_ := set $variants .name (add1 (get $variants .name | default 0)) -}}
{{- end }}
{{- end }}
{{- range $i, $model := $config.models }}
{{- if gt (int (get $models .name)) 1 }}
{{- include "jouleserve.fault" (list $check (printf "config.models[%d].name" $i) (printf "%q is used by two models" .name)) }}
{{- end }}
{{- range $j, $variant := .variants }}
{{- $at := printf "config.models[%d].variants[%d]" $i $j -}}
{{- if gt (int (get $variants .name)) 1 }}
{{- include "jouleserve.fault" (list $check (printf "%s.name" $at) (printf "%q is used by two variants, of whatever model: rename one" .name)) }}
{{- end }}
{{- $least := int (hasKey . "min_replicas" | ternary .min_replicas $check.rules.defaults.variant.min_replicas) -}}
{{- $most := int (.max_replicas | default $least) -}}
{{- if and (ne $planner.autoscaler "planner") (not $least) }}
{{- include "jouleserve.fault" (list $check (printf "%s.min_replicas" $at) "only the planner wakes what sleeps: make it at least 1, or set planner.autoscaler to planner") }}
{{- end }}
{{- if hasKey $planner.pinned .name }}
{{- $pinned := int (get $planner.pinned .name) -}}
{{- if or (lt $pinned $least) (gt $pinned $most) }}
{{- include "jouleserve.fault" (list $check (printf "config.planner.pinned.%s" .name) (printf "%d is not between its bounds %d and %d" $pinned $least $most)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $_ := $planner.pinned }}
{{- if not (hasKey $variants $name) }}
{{- include "jouleserve.fault" (list $check (printf "config.planner.pinned.%s" $name) (printf "no variant %q; known: %s" $name (keys $variants | sortAlpha | join ", "))) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Models that nothing trusted serves, and permissions for what is no candidate. */}}
{{- define "jouleserve.validate.candidates" -}}
{{- $check := . -}}
{{- $candidates := list -}}
{{- range $i, $model := .root.Values.config.models }}
{{- $trusted := 0 -}}
{{- range .variants }}
{{- if .candidate }}{{ $candidates = append $candidates .name }}{{ else }}{{ $trusted = add1 $trusted }}{{ end -}}
{{- end }}
{{- if not $trusted }}
{{- include "jouleserve.fault" (list $check (printf "config.models[%d].variants" $i) "all are candidates: one has to serve meanwhile") }}
{{- end }}
{{- end }}
{{- range $i, $name := dig "planner" "adapt" "accepted" list .root.Values.config }}
{{- if not (has $name $candidates) }}
{{- include "jouleserve.fault" (list $check (printf "config.planner.adapt.accepted[%d]" $i) (printf "no candidate %q; known: %s" $name (join ", " $candidates | default "none"))) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Classes that models take by default: there, and met by a variant. */}}
{{- define "jouleserve.validate.serviceClasses" -}}
{{- $check := . -}}
{{- $classes := .rules.service_classes -}}
{{- with .root.Values.config }}{{ if hasKey . "service_classes" }}{{ $classes = .service_classes }}{{ end }}{{ end -}}
{{- range $i, $model := .root.Values.config.models }}
{{- $at := printf "config.models[%d].default_service_class" $i -}}
{{- $name := hasKey . "default_service_class" | ternary .default_service_class $check.rules.defaults.model.default_service_class -}}
{{- if not (hasKey $classes $name) }}
{{- include "jouleserve.fault" (list $check $at (printf "no service class %q; known: %s" $name (keys $classes | sortAlpha | join ", " | default "none"))) }}
{{- else }}
{{- $floor := (get $classes $name).min_quality | default 0.0 -}}
{{- $met := false -}}
{{- range .variants }}
{{- if ge (float64 (hasKey . "quality" | ternary .quality 1.0)) (float64 $floor) }}{{ $met = true }}{{ end -}}
{{- end }}
{{- if not $met }}
{{- include "jouleserve.fault" (list $check $at (printf "no variant has the quality %v that %q asks for" $floor $name)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
