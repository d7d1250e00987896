{{/*
What a schema cannot say. Everything that is wrong is told at once, each with its key; the parts are
in _validate_*.tpl. A check is a dict of `root`, of `rules` (files/rules.yaml), of the node groups as
they come to stand, and of the faults found so far.
*/}}
{{- define "jouleserve.validate" -}}
{{- if and (not (.Capabilities.APIVersions.Has "ray.io/v1/RayService")) (not (.Capabilities.APIVersions.Has "ray.io/v1")) }}
{{- fail "this cluster has no RayService (ray.io/v1): install KubeRay's operator first; to render without a cluster add --api-versions ray.io/v1" }}
{{- end }}
{{- $check := dict "root" . "rules" (.Files.Get "files/rules.yaml" | fromYaml) "groups" (include "jouleserve.groups" . | fromYamlArray) "faults" list -}}
{{- range list "names" "config" "candidates" "serviceClasses" "variants" "groups" "places" "workers" "pods" "grace" "service" "routes" "secrets" "modelCache" }}
{{- include (printf "jouleserve.validate.%s" .) $check }}
{{- end }}
{{- with uniq $check.faults }}{{ fail (printf "these values cannot be:\n- %s" (join "\n- " .)) }}{{ end -}}
{{- end }}

{{/* Takes a check, the key, and what is wrong with it. */}}
{{- define "jouleserve.fault" -}}
{{- $check := index . 0 -}}
{{- $_ := set $check "faults" (append $check.faults (printf "%s: %s" (index . 1) (index . 2))) -}}
{{- end }}

{{/* The node groups, each with where it stands, its worker's settings, and what a worker has. */}}
{{- define "jouleserve.groups" -}}
{{- $root := . -}}
{{- $found := list -}}
{{- range $i, $group := .Values.config.node_groups }}
{{- $workers := int ($group.workers_per_node | default 1) -}}
{{- $settings := include "jouleserve.workerSettings" (dict "root" $root "group" $group) | fromYaml -}}
{{- $found = append $found (dict
      "at" (printf "config.node_groups[%d]" $i) "group" $group "name" $group.name "settings" $settings
      "share" (div (int $group.accelerators_per_node) $workers) "workers" (mul (int $group.max_nodes) $workers)) -}}
{{- end }}
{{- toYaml $found -}}
{{- end }}

{{/* Where a setting of pods is written: the head's, a worker group's own, or that of all workers. */}}
{{- define "jouleserve.at" -}}
{{- $root := index . 0 -}}
{{- $group := index . 1 -}}
{{- $key := index . 2 -}}
{{- if not $group }}head
{{- else if hasKey (get $root.Values.workerGroups $group | default dict) $key }}workerGroups.{{ $group }}
{{- else }}worker
{{- end }}.{{ $key }}
{{- end }}

{{/* A quantity of Kubernetes as a number. */}}
{{- define "jouleserve.amount" -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- if kindIs "string" . -}}
{{- mulf (regexFind "^[0-9.]+" .) (get $units (regexFind "[A-Za-z]*$" .)) -}}
{{- else -}}
{{- float64 . -}}
{{- end }}
{{- end }}

{{/* Names of Kubernetes that values come to. */}}
{{- define "jouleserve.validate.names" -}}
{{- $name := include "jouleserve.fullname" .root -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- include "jouleserve.fault" (list . "fullnameOverride" (printf "must be given, for %q begins with no letter or has a dot, and no Service may be called so" $name)) }}
{{- end }}
{{- end }}
