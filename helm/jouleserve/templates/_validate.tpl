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
{{- $workersPerNode := int (.workers_per_node | default 1) -}}
{{- if mod (int .accelerators_per_node) $workersPerNode }}
{{- fail (printf "%s.workers_per_node: %d workers cannot share the %d accelerators of %s evenly" $at $workersPerNode (int .accelerators_per_node) .name) }}
{{- end }}
{{- if and (eq (dig "planner" "nodes" "ray" $.Values.config) "kubernetes") (not .node_labels) (not (index (include "jouleserve.ray" $ | fromYaml).accelerators .accelerator).products) }}
{{- fail (printf "%s.node_labels: must be given, for nodes with %q have no label of their own" $at .accelerator) }}
{{- end }}
{{- if gt (int $worker.minReplicas) (mul (int .max_nodes) $workersPerNode) }}
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
{{- $share := div (int $group.accelerators_per_node) (int ($group.workers_per_node | default 1)) -}}
{{- if and (ne .accelerator "cpu") (gt $tp (int $share)) }}{{ fail (printf "%s.tensor_parallel_size: %d GPUs are more than a worker of %s has (%d)" $at $tp $group.name (int $share)) }}{{ end -}}
{{- if and (gt $tp 1) (contains "mig-" $worker.gpuResource) }}{{ fail (printf "%s.tensor_parallel_size: slices of a GPU (%s) cannot work together" $at $worker.gpuResource) }}{{ end -}}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}{{ fail "ingress.host: must be given where ingress.enabled is true" }}{{ end -}}
{{- range $key, $route := dict "grpcRoute" .Values.grpcRoute "httpRoute" .Values.httpRoute }}
{{- if and $route.enabled (not $route.parentRefs) }}{{ fail (printf "%s.parentRefs: must name a Gateway where %s.enabled is true" $key $key) }}{{ end -}}
{{- end }}
{{- if and .Values.ingress.grpc.host (eq .Values.ingress.grpc.host .Values.ingress.host) }}{{ fail "ingress.grpc.host: must differ from ingress.host, for controllers speak HTTP/1.1 with one and HTTP/2 with the other" }}{{ end -}}
{{- if and .Values.ingress.tls.generate .Values.ingress.tls.secretName }}{{ fail "ingress.tls.generate: a Secret is given already (ingress.tls.secretName): set one of the two" }}{{ end -}}
{{- if and .Values.modelCache.preload (ne .Values.modelCache.type "persistentVolumeClaim") }}{{ fail "modelCache.preload: needs a volume that all pods share: set modelCache.type to persistentVolumeClaim" }}{{ end -}}
{{- if and (dig "gateway" "api_keys_file" "" .Values.config) .Values.apiKeys.enabled }}{{ fail "config.gateway.api_keys_file: apiKeys.enabled names the file already: remove one of the two" }}{{ end -}}
{{- end }}
