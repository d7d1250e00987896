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
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
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

{{- define "jouleserve.apiKeysSecret" -}}
{{- .Values.apiKeys.existingSecret | default (printf "%s-api-keys" (include "jouleserve.fullname" .)) -}}
{{- end }}

{{- define "jouleserve.tlsSecret" -}}
{{- .Values.ingress.tls.secretName | default (printf "%s-tls" (include "jouleserve.fullname" .)) -}}
{{- end }}

{{/*
A worker group's settings: the common ones with its own over them.
*/}}
{{- define "jouleserve.workerSettings" -}}
{{- $own := index .root.Values.workerGroups .group.name | default dict -}}
{{- mergeOverwrite (deepCopy .root.Values.worker) $own | toYaml -}}
{{- end }}
