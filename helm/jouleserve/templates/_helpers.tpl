{{- define "jouleserve.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Short enough for what KubeRay adds. */}}
{{- define "jouleserve.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}
{{- end }}

{{- define "jouleserve.selector" -}}
app.kubernetes.io/name: {{ include "jouleserve.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "jouleserve.labels" -}}
{{ include "jouleserve.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "jouleserve.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "jouleserve.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end }}
{{- end }}

{{/* Of the whole cluster: its engines are for GPUs as soon as one group has some. */}}
{{- define "jouleserve.image" -}}
{{- $kind := "cpu" -}}
{{- range .Values.config.node_groups }}{{ if ne .accelerator "cpu" }}{{ $kind = "cuda" }}{{ end }}{{ end -}}
{{- .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s-%s" .Chart.AppVersion $kind) -}}
{{- end }}

{{- define "jouleserve.environment" -}}
{{- range $name, $value := (include "jouleserve.ray" . | fromYaml).environment }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
- name: JOULESERVE_CACHE
  value: /var/cache/jouleserve
{{- with .Values.otlp.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
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

{{/*
A worker group's settings: the common ones with its own over them.
*/}}
{{- define "jouleserve.workerSettings" -}}
{{- $own := index .root.Values.workerGroups .group.name | default dict -}}
{{- mergeOverwrite (deepCopy .root.Values.worker) $own | toYaml -}}
{{- end }}
