{{/*
What a schema cannot say. Each message names the key.
*/}}
{{- define "jouleserve.validate" -}}
{{- if and (not (.Capabilities.APIVersions.Has "ray.io/v1/RayService")) (not (.Capabilities.APIVersions.Has "ray.io/v1")) }}
{{- fail "this cluster has no RayService (ray.io/v1): install KubeRay's operator first; to render without a cluster add --api-versions ray.io/v1" }}
{{- end }}
{{- $groups := dict -}}
{{- $accelerators := dict -}}
{{- range $i, $group := .Values.config.node_groups }}
{{- $at := printf "config.node_groups[%d]" $i -}}
{{- if hasKey $groups .name }}{{ fail (printf "%s.name: %q names two groups" $at .name) }}{{ end -}}
{{- if hasKey $accelerators .accelerator }}{{ fail (printf "%s.accelerator: %q is in two groups: make it one" $at .accelerator) }}{{ end -}}
{{- $_ := set $groups .name . -}}
{{- $_ := set $accelerators .accelerator . -}}
{{- $worker := include "jouleserve.workerSettings" (dict "root" $ "group" .) | fromYaml -}}
{{- if mod (int .accelerators_per_node) (int $worker.workersPerNode) }}
{{- fail (printf "workerGroups.%s.workersPerNode: %d workers cannot share the %d accelerators of %s evenly" .name (int $worker.workersPerNode) (int .accelerators_per_node) .name) }}
{{- end }}
{{- if gt (int $worker.minReplicas) (mul (int .max_nodes) (int $worker.workersPerNode)) }}
{{- fail (printf "workerGroups.%s.minReplicas: %d is more than max_nodes of the node group allows" .name (int $worker.minReplicas)) }}
{{- end }}
{{- end }}
{{- range $name, $_ := .Values.workerGroups }}
{{- if not (hasKey $groups $name) }}{{ fail (printf "workerGroups.%s: config.node_groups has no group of that name" $name) }}{{ end -}}
{{- end }}
{{- $variants := dict -}}
{{- range $i, $model := .Values.config.models }}
{{- range $j, $variant := .variants }}
{{- $at := printf "config.models[%d].variants[%d]" $i $j -}}
{{- if hasKey $variants .name }}{{ fail (printf "%s.name: %q is used by two variants" $at .name) }}{{ end -}}
{{- $_ := set $variants .name . -}}
{{- $group := get $accelerators .accelerator -}}
{{- if not $group }}{{ fail (printf "%s.accelerator: no group of config.node_groups has %q" $at .accelerator) }}{{ end -}}
{{- $least := 1 -}}
{{- if hasKey . "min_replicas" }}{{ $least = int .min_replicas }}{{ end -}}
{{- if and .max_replicas (gt $least (int .max_replicas)) }}{{ fail (printf "%s.min_replicas: %d is more than max_replicas %d" $at $least (int .max_replicas)) }}{{ end -}}
{{- $tp := int (.tensor_parallel_size | default 1) -}}
{{- $worker := include "jouleserve.workerSettings" (dict "root" $ "group" $group) | fromYaml -}}
{{- $share := div (int $group.accelerators_per_node) (int $worker.workersPerNode) -}}
{{- if and (ne .accelerator "cpu") (gt $tp (int $share)) }}{{ fail (printf "%s.tensor_parallel_size: %d GPUs are more than a worker of %s has (%d)" $at $tp $group.name (int $share)) }}{{ end -}}
{{- if and (gt $tp 1) (contains "mig-" $worker.gpuResource) }}{{ fail (printf "%s.tensor_parallel_size: slices of a GPU (%s) cannot work together" $at $worker.gpuResource) }}{{ end -}}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}{{ fail "ingress.host: must be given where ingress.enabled is true" }}{{ end -}}
{{- if and .Values.grpcRoute.enabled (not .Values.grpcRoute.parentRefs) }}{{ fail "grpcRoute.parentRefs: must name a Gateway where grpcRoute.enabled is true" }}{{ end -}}
{{- end }}
