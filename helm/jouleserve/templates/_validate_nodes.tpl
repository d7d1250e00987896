{{/*
Node groups as such: told apart, shared evenly, and named so that nothing else is.
*/}}
{{- define "jouleserve.validate.groups" -}}
{{- $check := . -}}
{{- $ray := include "jouleserve.ray" .root | fromYaml -}}
{{- $names := dict -}}
{{- $accelerators := dict -}}
{{- range .groups }}
{{- $_ := set $names .name (add1 (get $names .name | default 0)) -}}
{{- $_ := set $accelerators .group.accelerator (add1 (get $accelerators .group.accelerator | default 0)) -}}
{{- end }}
{{- if not .groups }}
{{- include "jouleserve.fault" (list . "config.node_groups" "must be given: one for each worker group") }}
{{- end }}
{{- range .groups }}
{{- $group := .group -}}
{{- $at := .at -}}
{{- if gt (int (get $names .name)) 1 }}
{{- include "jouleserve.fault" (list $check (printf "%s.name" .at) (printf "%q names two groups" .name)) }}
{{- end }}
{{- if has .name (list "head" "headgroup") }}
{{- include "jouleserve.fault" (list $check (printf "%s.name" .at) (printf "%q is what the head's own group is called" .name)) }}
{{- end }}
{{- if gt (int (get $accelerators $group.accelerator)) 1 }}
{{- include "jouleserve.fault" (list $check (printf "%s.accelerator" .at) (printf "%q is in two groups: make it one group" $group.accelerator)) }}
{{- end }}
{{- $workers := int ($group.workers_per_node | default 1) -}}
{{- if mod (int $group.accelerators_per_node) $workers }}
{{- include "jouleserve.fault" (list $check (printf "%s.workers_per_node" .at) (printf "%d workers cannot share the %d accelerators of %s evenly" $workers (int $group.accelerators_per_node) .name)) }}
{{- end }}
{{- if and (not $group.node_labels) (not (index $ray.accelerators $group.accelerator).products) }}
{{- include "jouleserve.fault" (list $check (printf "%s.node_labels" .at) (printf "must be given, for nodes with %q have no label of their own, e.g. {kubernetes.io/arch: [amd64]}" $group.accelerator)) }}
{{- end }}
{{- range $label, $values := $group.node_labels }}
{{- if not (regexMatch "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$" $label) }}
{{- include "jouleserve.fault" (list $check (printf "%s.node_labels.%s" $at $label) "is no name of a label") }}
{{- end }}
{{- range $values }}
{{- if not (regexMatch "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$" .) }}
{{- include "jouleserve.fault" (list $check (printf "%s.node_labels.%s" $at $label) (printf "%q is no value of a label" .)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $_ := .root.Values.workerGroups }}
{{- if not (hasKey $names $name) }}
{{- include "jouleserve.fault" (list $check (printf "workerGroups.%s" $name) "config.node_groups has no group of that name") }}
{{- end }}
{{- end }}
{{- end }}

{{/* Variants have a place to be: nodes, GPUs that can work together, and cores. */}}
{{- define "jouleserve.validate.places" -}}
{{- $check := . -}}
{{- $places := dict -}}
{{- range .groups }}{{ $_ := set $places .group.accelerator . }}{{ end -}}
{{- range $i, $model := .root.Values.config.models }}
{{- range $j, $given := .variants }}
{{- $one := dict "check" $check "at" (printf "config.models[%d].variants[%d]" $i $j) "variant" (mergeOverwrite (deepCopy $check.rules.defaults.variant) .) "place" (get $places .accelerator) -}}
{{- if $one.place }}
{{- include "jouleserve.validate.place" $one }}
{{- else }}
{{- include "jouleserve.fault" (list $check (printf "%s.accelerator" $one.at) (printf "no group of config.node_groups has %q" .accelerator)) }}
{{- end }}
{{- end }}
{{- end }}
{{- range .groups }}
{{- include "jouleserve.validate.room" (dict "check" $check "place" .) }}
{{- end }}
{{- end }}

{{/* Of one variant. */}}
{{- define "jouleserve.validate.place" -}}
{{- $place := .place -}}
{{- $tp := int .variant.tensor_parallel_size -}}
{{- $ranks := mul $tp (int .variant.pipeline_parallel_size) -}}
{{- $all := mul $place.share $place.workers -}}
{{- $shares := printf "%s.accelerators_per_node and workers_per_node" $place.at -}}
{{- if eq .variant.accelerator "cpu" }}
{{- if gt (float64 .variant.cpus_per_replica) (float64 $place.share) }}
{{- include "jouleserve.fault" (list .check (printf "%s.cpus_per_replica" .at) (printf "%v cores are more than a worker of %s has (%d, by %s)" .variant.cpus_per_replica $place.name (int $place.share) $shares)) }}
{{- end }}
{{- else }}
{{- if gt $tp (int $place.share) }}
{{- include "jouleserve.fault" (list .check (printf "%s.tensor_parallel_size" .at) (printf "%d GPUs are more than a worker of %s has (%d, by %s)" $tp $place.name (int $place.share) $shares)) }}
{{- else if gt (int $ranks) (int $all) }}
{{- include "jouleserve.fault" (list .check (printf "%s.pipeline_parallel_size" .at) (printf "%d stages of %d GPUs are more than %s has (%d on %d nodes)" (int .variant.pipeline_parallel_size) $tp $place.name (int $all) (int $place.group.max_nodes))) }}
{{- end }}
{{- if contains "/mig-" $place.settings.gpuResource }}
{{- range list "tensor_parallel_size" "pipeline_parallel_size" }}
{{- if gt (int (get $.variant .)) 1 }}
{{- include "jouleserve.fault" (list $.check (printf "%s.%s" $.at .) (printf "slices of a GPU (%s) cannot work together" $place.settings.gpuResource)) }}
{{- end }}
{{- end }}
{{- if .variant.gpu_power_limit_w }}
{{- include "jouleserve.fault" (list .check (printf "%s.gpu_power_limit_w" .at) (printf "is of a whole GPU, and a slice (%s) has none" $place.settings.gpuResource)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of all variants on a node group: what is always awake fits, and has cores. */}}
{{- define "jouleserve.validate.room" -}}
{{- $check := .check -}}
{{- $place := .place -}}
{{- $share := float64 $place.share -}}
{{- $all := mulf $share $place.workers -}}
{{- $pinned := dig "planner" "pinned" dict .check.root.Values.config -}}
{{- $awake := 0.0 -}}
{{- $most := 0.0 -}}
{{- $cores := 0.0 -}}
{{- range $i, $model := .check.root.Values.config.models }}
{{- range $j, $given := .variants }}
{{- if eq .accelerator $place.group.accelerator }}
{{- $variant := mergeOverwrite (deepCopy $check.rules.defaults.variant) . -}}
{{- $ranks := mul (int $variant.tensor_parallel_size) (int $variant.pipeline_parallel_size) -}}
{{- $units := float64 (ternary $variant.cpus_per_replica $ranks (eq .accelerator "cpu")) -}}
{{- $least := int (hasKey $pinned .name | ternary (get $pinned .name) $variant.min_replicas) -}}
{{- $awake = addf $awake (mulf $least $units) -}}
{{- $most = addf $most (mulf ($variant.max_replicas | default $least) $ranks) -}}
{{- if or (not $cores) (lt (float64 $variant.cpus_per_replica) $cores) }}{{ $cores = float64 $variant.cpus_per_replica }}{{ end -}}
{{- $whole := int (floor (divf $share (ternary $units (float64 $variant.tensor_parallel_size) (eq .accelerator "cpu")))) -}}
{{- $fits := div (mul $whole $place.workers) (int $variant.pipeline_parallel_size) -}}
{{- if and (gt $whole 0) (gt $least (int $fits)) }}
{{- include "jouleserve.fault" (list $check (printf "config.models[%d].variants[%d].min_replicas" $i $j) (printf "%d replicas are more than fit on %s (%d, with max_nodes %d)" $least $place.name (int $fits) (int $place.group.max_nodes))) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if gt $awake $all }}
{{- include "jouleserve.fault" (list .check (printf "%s.max_nodes" $place.at) (printf "%d nodes have %v accelerators, and what is always awake (min_replicas, planner.pinned) takes %v" (int $place.group.max_nodes) $all $awake)) }}
{{- end }}
{{- if and (ne $place.group.accelerator "cpu") $cores }}
{{- $resources := $place.settings.resources -}}
{{- $given := dig "limits" "cpu" (dig "requests" "cpu" nil $resources) $resources -}}
{{- if not (kindIs "invalid" $given) }}
{{- $has := ceil (include "jouleserve.amount" $given | float64) -}}
{{- $need := mulf (min $most $all) $cores -}}
{{- $needed := ternary (divf $need $place.workers) $has (gt $need (mulf $has $place.workers)) -}}
{{- if gt $needed $has }}
{{- $at := include "jouleserve.at" (list .check.root $place.name "resources") -}}
{{- include "jouleserve.fault" (list .check (printf "%s.requests.cpu" $at) (printf "%v cores of each worker of %s do not feed its %v accelerators: by cpus_per_replica they take %v" $has $place.name $share (ceil $needed))) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Worker groups: floors, and what they ask of a node. */}}
{{- define "jouleserve.validate.workers" -}}
{{- $check := . -}}
{{- $ray := include "jouleserve.ray" .root | fromYaml -}}
{{- range .groups }}
{{- if gt (int .settings.minReplicas) (int .workers) }}
{{- include "jouleserve.fault" (list $check (include "jouleserve.at" (list $check.root .name "minReplicas")) (printf "%d is more than max_nodes of the node group allows (%d)" (int .settings.minReplicas) (int .workers))) }}
{{- end }}
{{- if and (contains "/mig-" .settings.gpuResource) (ne .group.accelerator "cpu") (not (index $ray.accelerators .group.accelerator).mig) }}
{{- include "jouleserve.fault" (list $check (include "jouleserve.at" (list $check.root .name "gpuResource")) (printf "%s has no MIG, and so no %s" .group.accelerator .settings.gpuResource)) }}
{{- end }}
{{- end }}
{{- end }}
