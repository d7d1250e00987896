{{/*
What serve/config_models.py and serve/config_file.py refuse of a variant by itself.
*/}}
{{- define "jouleserve.validate.variants" -}}
{{- $check := . -}}
{{- range $i, $model := .root.Values.config.models }}
{{- range $j, $given := .variants }}
{{- $variant := mergeOverwrite (deepCopy $check.rules.defaults.variant) . -}}
{{- $one := dict "check" $check "at" (printf "config.models[%d].variants[%d]" $i $j) "variant" $variant -}}
{{- include "jouleserve.validate.replicas" $one }}
{{- include "jouleserve.validate.engine" $one }}
{{- include "jouleserve.validate.engineOptions" $one }}
{{- if $variant.checkpoint }}{{ include "jouleserve.validate.checkpoint" $one }}{{ end -}}
{{- if eq $variant.accelerator "cpu" }}{{ include "jouleserve.validate.cpu" $one }}{{ end -}}
{{- end }}
{{- end }}
{{- end }}

{{- define "jouleserve.validate.replicas" -}}
{{- $least := int .variant.min_replicas -}}
{{- if and (not $least) (not .variant.max_replicas) }}
{{- include "jouleserve.fault" (list .check (printf "%s.max_replicas" .at) "must be given where min_replicas is 0, e.g. 1") }}
{{- end }}
{{- if and .variant.max_replicas (gt $least (int .variant.max_replicas)) }}
{{- include "jouleserve.fault" (list .check (printf "%s.min_replicas" .at) (printf "%d is more than max_replicas %d" $least (int .variant.max_replicas))) }}
{{- end }}
{{- if and .variant.candidate $least }}
{{- include "jouleserve.fault" (list .check (printf "%s.min_replicas" .at) "a candidate sleeps until it is tried: give 0") }}
{{- end }}
{{- if ne (toString (default "" .variant.profile_file)) "" }}
{{- include "jouleserve.fault" (list .check (printf "%s.profile_file" .at) "no pod has that file: give profile itself") }}
{{- end }}
{{- end }}

{{- define "jouleserve.validate.engine" -}}
{{- $one := . -}}
{{- if and (ne .variant.engine "echo") (not .variant.checkpoint) }}
{{- if .variant.manifest }}
{{- include "jouleserve.fault" (list .check (printf "%s.checkpoint" .at) (printf "must be given: the manifest %q lies where it was built, not in a pod" .variant.manifest)) }}
{{- else }}
{{- include "jouleserve.fault" (list .check (printf "%s.checkpoint" .at) (printf "the engine %s needs one: give path, package or hub" .variant.engine)) }}
{{- end }}
{{- end }}
{{- range $key, $default := get .check.rules.unread .variant.engine }}
{{- if ne (get $one.variant $key | toJson) ($default | toJson) }}
{{- include "jouleserve.fault" (list $one.check (printf "%s.%s" $one.at $key) (printf "the engine %s does not read it: remove it" $one.variant.engine)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* An image of one's own may have another vLLM, with other options. */}}
{{- define "jouleserve.validate.engineOptions" -}}
{{- $one := . -}}
{{- $rules := .check.rules.engine_options -}}
{{- if eq .variant.engine "vllm" }}
{{- range $option, $_ := .variant.engine_options }}
{{- $at := printf "%s.engine_options.%s" $one.at $option -}}
{{- if hasKey $rules.own_keys $option }}
{{- include "jouleserve.fault" (list $one.check $at (printf "use the variant's own key %q" (get $rules.own_keys $option))) }}
{{- else if has $option $rules.reserved }}
{{- include "jouleserve.fault" (list $one.check $at "it is set already: streams of a lost replica go on by it") }}
{{- else if and (not $one.check.root.Values.image.tag) (not (has $option $rules.known)) }}
{{- include "jouleserve.fault" (list $one.check $at "vLLM's AsyncEngineArgs has no such field") }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "jouleserve.validate.checkpoint" -}}
{{- $checkpoint := .variant.checkpoint -}}
{{- $places := compact (list $checkpoint.path $checkpoint.package $checkpoint.hub) -}}
{{- $at := printf "%s.checkpoint" .at -}}
{{- if ne (len $places) 1 }}
{{- include "jouleserve.fault" (list .check $at (printf "takes exactly one of path, package and hub; it has %d of them" (len $places))) }}
{{- else if and (not (kindIs "invalid" $checkpoint.revision)) (not $checkpoint.hub) }}
{{- include "jouleserve.fault" (list .check $at "revision belongs to hub: remove it") }}
{{- end }}
{{- if and $checkpoint.path (not (hasPrefix "/" $checkpoint.path)) }}
{{- include "jouleserve.fault" (list .check (printf "%s.path" $at) (printf "%q must begin with /: in a pod there is no file that it could start at" $checkpoint.path)) }}
{{- end }}
{{- if and $checkpoint.hub (not (regexMatch .check.rules.hub_id $checkpoint.hub)) }}
{{- include "jouleserve.fault" (list .check (printf "%s.hub" $at) (printf "%q is no repository: organisation/name" $checkpoint.hub)) }}
{{- end }}
{{- end }}

{{- define "jouleserve.validate.cpu" -}}
{{- $one := . -}}
{{- range list "tensor_parallel_size" "pipeline_parallel_size" }}
{{- if gt (int (get $one.variant .)) 1 }}
{{- include "jouleserve.fault" (list $one.check (printf "%s.%s" $one.at .) (printf "%d ranks need as many GPUs: accelerator is \"cpu\"" (int (get $one.variant .)))) }}
{{- end }}
{{- end }}
{{- if .variant.gpu_power_limit_w }}
{{- include "jouleserve.fault" (list .check (printf "%s.gpu_power_limit_w" .at) "is of a GPU: accelerator is \"cpu\"") }}
{{- end }}
{{- if and (eq .variant.engine "vllm") (not .variant.kv_cache_gib) }}
{{- include "jouleserve.fault" (list .check (printf "%s.kv_cache_gib" .at) "must be given where accelerator is \"cpu\", e.g. 1") }}
{{- end }}
{{- end }}
