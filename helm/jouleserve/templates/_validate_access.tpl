{{/*
How clients come in, and what is read from Secrets and volumes of others.
*/}}
{{- define "jouleserve.validate.service" -}}
{{- $check := . -}}
{{- $service := .root.Values.service -}}
{{- $gateway := mergeOverwrite (deepCopy .rules.defaults.gateway) (.root.Values.config.gateway | default dict) -}}
{{- if eq (int $service.grpcPort) (int $service.httpPort) }}
{{- include "jouleserve.fault" (list . "service.httpPort" (printf "%d is also grpcPort: give them two ports" (int $service.httpPort))) }}
{{- end }}
{{- range $key := list "grpc_port" "http_port" }}
{{- $port := int (get $gateway $key) -}}
{{- if or (has $port (list 6379 8076 8080 8265 8404 9101 52365)) (and (ge $port 10001) (le $port 19999)) }}
{{- include "jouleserve.fault" (list $check (printf "config.gateway.%s" $key) (printf "%d is a port of Ray's own in every pod: choose another" $port)) }}
{{- end }}
{{- end }}
{{- if has (dig "gateway" "host" "" .root.Values.config) (list "127.0.0.1" "localhost" "::1") }}
{{- include "jouleserve.fault" (list . "config.gateway.host" (printf "nobody outside its pod reaches %s: remove it" $gateway.host)) }}
{{- end }}
{{- if and $gateway.api_keys_file (not (hasPrefix "/" $gateway.api_keys_file)) }}
{{- include "jouleserve.fault" (list . "config.gateway.api_keys_file" (printf "%q must begin with /: in a pod there is no file that it could start at" $gateway.api_keys_file)) }}
{{- end }}
{{- end }}

{{- define "jouleserve.validate.routes" -}}
{{- $check := . -}}
{{- $values := .root.Values -}}
{{- range $key, $route := dict "grpcRoute" $values.grpcRoute "httpRoute" $values.httpRoute }}
{{- if $route.enabled }}
{{- if not $route.parentRefs }}
{{- include "jouleserve.fault" (list $check (printf "%s.parentRefs" $key) (printf "must name a Gateway where %s.enabled is true" $key)) }}
{{- end }}
{{- if not ($check.root.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1") }}
{{- include "jouleserve.fault" (list $check (printf "%s.enabled" $key) "this cluster has no Gateway API (gateway.networking.k8s.io/v1): install it, or set it to false") }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $values.grpcRoute.enabled $values.httpRoute.enabled }}
{{- range $parent := $values.grpcRoute.parentRefs }}
{{- range $other := $values.httpRoute.parentRefs }}
{{- if eq (toJson $parent) (toJson $other) }}
{{- $ours := $values.httpRoute.hostnames | default list -}}
{{- $theirs := $values.grpcRoute.hostnames | default list -}}
{{- $shared := list -}}
{{- range $ours }}{{ if has . $theirs }}{{ $shared = append $shared . }}{{ end }}{{ end -}}
{{- if or (not $ours) (not $theirs) $shared }}
{{- include "jouleserve.fault" (list $check "httpRoute.hostnames" (printf "must differ from grpcRoute.hostnames, for a listener (%s) takes one kind of route for a host" $parent.name)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with $values.ingress }}
{{- if and .enabled (not .host) }}
{{- include "jouleserve.fault" (list $check "ingress.host" "must be given where ingress.enabled is true") }}
{{- end }}
{{- if and .grpc.host (eq .grpc.host .host) }}
{{- include "jouleserve.fault" (list $check "ingress.grpc.host" "must differ from ingress.host, for controllers speak HTTP/1.1 with one and HTTP/2 with the other") }}
{{- end }}
{{- if and .tls.generate .tls.secretName }}
{{- include "jouleserve.fault" (list $check "ingress.tls.generate" "a Secret is given already (ingress.tls.secretName): set one of the two") }}
{{- end }}
{{- end }}
{{- if and $values.networkPolicy.from (not $values.networkPolicy.enabled) }}
{{- include "jouleserve.fault" (list . "networkPolicy.enabled" "must be true where networkPolicy.from is given: without a policy everybody may speak") }}
{{- end }}
{{- end }}

{{- define "jouleserve.validate.secrets" -}}
{{- $check := . -}}
{{- $values := .root.Values -}}
{{- range $key, $secret := dict "hubToken" $values.hubToken "otlp.headersSecret" $values.otlp.headersSecret "gcsFaultTolerance.passwordSecret" $values.gcsFaultTolerance.passwordSecret }}
{{- if and $secret.name (not $secret.key) }}
{{- include "jouleserve.fault" (list $check (printf "%s.key" $key) (printf "must be given: an entry of the Secret %s" $secret.name)) }}
{{- else if and $secret.key (not $secret.name) }}
{{- include "jouleserve.fault" (list $check (printf "%s.name" $key) (printf "must be given: a Secret that has %s" $secret.key)) }}
{{- end }}
{{- end }}
{{- if and $values.otlp.headersSecret.name (not $values.otlp.endpoint) }}
{{- include "jouleserve.fault" (list . "otlp.endpoint" "must be given where otlp.headersSecret is: else nothing is sent") }}
{{- end }}
{{- if and $values.gcsFaultTolerance.passwordSecret.name (not $values.gcsFaultTolerance.redisAddress) }}
{{- include "jouleserve.fault" (list . "gcsFaultTolerance.redisAddress" "must be given where gcsFaultTolerance.passwordSecret is") }}
{{- end }}
{{- if and $values.apiKeys.existingSecret (not $values.apiKeys.enabled) }}
{{- include "jouleserve.fault" (list . "apiKeys.enabled" "must be true where apiKeys.existingSecret is given: else everybody is let in") }}
{{- end }}
{{- if and (dig "gateway" "api_keys_file" "" $values.config) $values.apiKeys.enabled }}
{{- include "jouleserve.fault" (list . "config.gateway.api_keys_file" "apiKeys.enabled names the file already: remove one of the two") }}
{{- end }}
{{- end }}

{{- define "jouleserve.validate.modelCache" -}}
{{- $check := . -}}
{{- $cache := .root.Values.modelCache -}}
{{- if ne $cache.type "persistentVolumeClaim" }}
{{- range $key := list "existingClaim" "storageClassName" }}
{{- if get $cache $key }}
{{- include "jouleserve.fault" (list $check "modelCache.type" (printf "must be persistentVolumeClaim where modelCache.%s is given" $key)) }}
{{- end }}
{{- end }}
{{- if $cache.preload }}
{{- include "jouleserve.fault" (list . "modelCache.preload" "needs a volume that all pods share: set modelCache.type to persistentVolumeClaim") }}
{{- end }}
{{- end }}
{{- if has ".." (splitList "/" $cache.hostPath) }}
{{- include "jouleserve.fault" (list . "modelCache.hostPath" "must have no .. in it") }}
{{- end }}
{{- if $cache.preload }}
{{- $hubs := list -}}
{{- range .root.Values.config.models }}{{ range .variants }}{{ with .checkpoint }}{{ if .hub }}{{ $hubs = append $hubs .hub }}{{ end }}{{ end }}{{ end }}{{ end -}}
{{- if not $hubs }}
{{- include "jouleserve.fault" (list . "modelCache.preload" "no variant has a checkpoint from the hub: there is nothing to fetch") }}
{{- end }}
{{- end }}
{{- end }}
