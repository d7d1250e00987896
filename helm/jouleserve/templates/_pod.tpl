{{/*
What all pods of the cluster are made of. Each takes a dict of `root` and `settings`, those of the
head or of a worker group; what KubeRay adds (probes, ports of Ray, waiting for the head) is its own.
*/}}
{{- define "jouleserve.podSettings" -}}
{{- $settings := .settings -}}
serviceAccountName: {{ include "jouleserve.serviceAccount" .root }}
terminationGracePeriodSeconds: {{ .root.Values.terminationGracePeriodSeconds }}
securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $given := dict }}
{{- range $key := list "runtimeClassName" "priorityClassName" "nodeSelector" "tolerations" "topologySpreadConstraints" "initContainers" }}
{{- with index $settings $key }}{{ $_ := set $given $key . }}{{ end }}
{{- end }}
{{- with merge $given ($settings.podSpec | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "jouleserve.containerSettings" -}}
image: {{ .settings.image | default (include "jouleserve.image" .root) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext: {{- toYaml .root.Values.securityContext | nindent 2 }}
env:
  {{- include "jouleserve.environment" .root | trim | nindent 2 }}
  {{- with .settings.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $settings := .settings }}
{{- range $key := list "livenessProbe" "readinessProbe" "startupProbe" }}
{{- with index $settings $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .settings.containerSpec }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "jouleserve.environment" }}
{{- range $name, $value := (include "jouleserve.ray" . | fromYaml).environment }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
# The root file system may be read-only: whatever is kept is kept in the cache.
{{- range $name, $place := dict "JOULESERVE_CACHE" "" "HF_HOME" "/hub" "VLLM_CACHE_ROOT" "/vllm" "TRITON_CACHE_DIR" "/triton" "TORCHINDUCTOR_CACHE_DIR" "/inductor" "XDG_CACHE_HOME" "/xdg" }}
- name: {{ $name }}
  value: /var/cache/jouleserve{{ $place }}
{{- end }}
- name: HOME
  value: /tmp
{{- with .Values.otlp.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.otlp.protocol }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ . }}
{{- end }}
{{- if .Values.podMonitor.enabled }}
# Fetched rather than pushed: what came to Prometheus on both ways would count twice.
- name: OTEL_METRICS_EXPORTER
  value: prometheus
- name: OTEL_EXPORTER_PROMETHEUS_HOST
  value: 0.0.0.0
{{- end }}
{{- if lt (float64 .Values.otlp.sampling) 1.0 }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .Values.otlp.sampling | quote }}
{{- end }}
{{- with .Values.otlp.headersSecret }}
{{- if .name }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- with .Values.hubToken }}
{{- if .name }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "jouleserve.mounts" -}}
- {name: cache, mountPath: /var/cache/jouleserve}
- {name: tmp, mountPath: /tmp}
{{- if and .root.Values.apiKeys.enabled (or .head (not (include "jouleserve.gatewaysOnHead" .root))) }}
- {name: api-keys, mountPath: /etc/jouleserve, readOnly: true}
{{- end }}
{{- with .settings.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "jouleserve.volumes" -}}
- name: tmp
  emptyDir: {}
{{ include "jouleserve.cacheVolume" .root }}
{{- if and .root.Values.apiKeys.enabled (or .head (not (include "jouleserve.gatewaysOnHead" .root))) }}
- name: api-keys
  secret:
    secretName: {{ include "jouleserve.apiKeysSecret" .root }}
    items: [{key: {{ .root.Values.apiKeys.key }}, path: api-keys}]
{{- end }}
{{- with .settings.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "jouleserve.cacheVolume" -}}
- name: cache
{{- if eq .Values.modelCache.type "persistentVolumeClaim" }}
  persistentVolumeClaim:
    claimName: {{ .Values.modelCache.existingClaim | default (printf "%s-models" (include "jouleserve.fullname" .)) }}
{{- else if eq .Values.modelCache.type "hostPath" }}
  hostPath:
    path: {{ .Values.modelCache.hostPath }}
    type: DirectoryOrCreate
{{- else }}
  emptyDir:
    sizeLimit: {{ .Values.modelCache.size }}
{{- end }}
{{- end }}

{{/* Only they read API keys. */}}
{{- define "jouleserve.gatewaysOnHead" -}}
{{- if eq (dig "gateway" "node_resource" "node:__internal_head__" .Values.config) "node:__internal_head__" }}yes{{ end -}}
{{- end }}

{{/* Cores that Ray counts in a worker with so many GPUs: those that its hungriest variant asks for. */}}
{{- define "jouleserve.coresOfGpus" -}}
{{- $most := 1.0 -}}
{{- $accelerator := .group.accelerator -}}
{{- range .root.Values.config.models }}
{{- range .variants }}
{{- if and (eq .accelerator $accelerator) .cpus_per_replica }}{{ $most = maxf $most .cpus_per_replica }}{{ end -}}
{{- end }}
{{- end }}
{{- ceil (mulf $most .share) -}}
{{- end }}

{{/* Where a worker group's pods may run: on nodes that have its accelerator. */}}
{{- define "jouleserve.workerAffinity" -}}
{{- $products := (index (include "jouleserve.ray" .root | fromYaml).accelerators .group.accelerator).products -}}
{{- $labels := .group.node_labels | default (ternary (dict "nvidia.com/gpu.product" $products) dict (gt (len $products) 0)) -}}
{{- if .settings.affinity -}}
{{- toYaml .settings.affinity }}
{{- else if $labels -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          {{- range $label, $values := $labels }}
          - key: {{ $label }}
            operator: In
            values: {{- toYaml $values | nindent 14 }}
          {{- end }}
{{- end }}
{{- end }}
