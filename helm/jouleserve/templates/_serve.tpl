{{/*
What does not depend on values; written by scripts/generate_chart.py.
*/}}
{{- define "jouleserve.ray" -}}
{{ .Files.Get "files/ray.yaml" }}
{{- end }}

{{/*
Ray Serve's declarative configuration, as serve/deployment.py makes it of the same configuration.
*/}}
{{- define "jouleserve.serveConfig" -}}
{{- $app := (include "jouleserve.ray" . | fromYaml).application -}}
{{- $config := .Values.config -}}
{{- if .Values.apiKeys.enabled }}
{{- $config = merge (dict "gateway" (dict "api_keys_file" "/etc/jouleserve/api-keys")) $config -}}
{{- end }}
{{- $gateway := $config.gateway | default dict -}}
{{- $planner := $config.planner | default dict -}}
{{- $planned := eq ($planner.autoscaler | default "planner") "planner" -}}
{{- /* Numbers of replicas stand beside the arguments: scaling replaces nothing. */ -}}
{{- $models := list -}}
{{- range $config.models }}
{{- $variants := list -}}
{{- range .variants }}
{{- $variants = append $variants (omit . "min_replicas" "max_replicas" "candidate") -}}
{{- end }}
{{- $models = append $models (merge (dict "variants" $variants) (omit . "variants")) -}}
{{- end }}
{{- $args := merge (dict "models" $models "gateway" (omit $gateway "replicas") "planner" (dict "autoscaler" ($planner.autoscaler | default "planner"))) (omit $config "models" "gateway" "planner" "node_groups") -}}
{{- $deployments := list (dict "name" $app.gateway "num_replicas" ($gateway.replicas | default 1)) -}}
{{- if $planned }}
{{- $deployments = append $deployments (dict "name" $app.planner "user_config" $config "autoscaling_config" $app.planner_scaling) -}}
{{- end }}
{{- range $config.models }}
{{- range .variants }}
{{- $least := 1 -}}
{{- if hasKey . "min_replicas" }}{{ $least = .min_replicas }}{{ end -}}
{{- $most := .max_replicas | default $least -}}
{{- if eq (int $least) (int $most) }}
{{- $deployments = append $deployments (dict "name" .name "num_replicas" (int $least)) -}}
{{- else if $planned }}
{{- $deployments = append $deployments (dict "name" .name "autoscaling_config" (merge (dict "min_replicas" (int $least) "max_replicas" (int $most)) $app.delays)) -}}
{{- else }}
{{- $target := $planner.queue_target | default (.max_batch | default 128) -}}
{{- $deployments = append $deployments (dict "name" .name "autoscaling_config" (dict "min_replicas" (int $least) "max_replicas" (int $most) "target_ongoing_requests" $target)) -}}
{{- end }}
{{- end }}
{{- end }}
{{- $application := dict "name" $app.name "route_prefix" "/" "import_path" $app.import_path "args" $args "deployments" $deployments -}}
{{- if $planned }}
{{- $application = set $application "autoscaling_policy" (dict "policy_function" $app.policy) -}}
{{- end }}
{{- $everyNode := eq ($gateway.ingress | default "every_node") "every_node" -}}
{{- dict "proxy_location" (ternary "EveryNode" "HeadOnly" $everyNode)
         "http_options" (dict "host" ($gateway.host | default "0.0.0.0") "port" ($gateway.http_port | default 8000))
         "grpc_options" (dict "port" ($gateway.grpc_port | default 9000) "grpc_servicer_functions" $app.servicers)
         "applications" (list $application) | toYaml }}
{{- end }}
