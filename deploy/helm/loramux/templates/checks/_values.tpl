{{/* Values that the schema takes one by one, and that do not go together. */}}
{{- define "loramux.check" -}}
{{- include "loramux.check.front" . }}
{{- include "loramux.check.secrets" . }}
{{- include "loramux.check.fetch" . }}
{{- include "loramux.check.adapters" . }}
{{- include "loramux.check.fetch" . }}
{{- include "loramux.check.metrics" . }}
{{- include "loramux.check.scaling" . }}
{{- include "loramux.check.claims" . }}
{{- range $name, $of := dict "resources" .Values "router.resources" .Values.router "router.placement.resources" .Values.router.placement "picker.resources" .Values.picker "model.fetch.resources" .Values.model.fetch }}
{{- include "loramux.check.resources" (list $name $of.resources) }}
{{- end }}
{{- range $name, $service := dict "service" .Values.service "router.service" .Values.router.service }}
{{- if and (ne $service.type "ClusterIP") (eq $service.clusterIP "None") }}
{{- fail (printf "%s.type %s needs an address: %s.clusterIP: ''" $name $service.type $name) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Requests beyond limits, which Kubernetes refuses: (list name resources). */}}
{{- define "loramux.check.resources" -}}
{{- $name := index . 0 }}
{{- $limits := (index . 1).limits | default dict }}
{{- range $what, $asked := (index . 1).requests }}
{{- $least := include "loramux.quantity" $asked }}
{{- $most := include "loramux.quantity" (get $limits $what) }}
{{- if and $least $most (gt (float64 $least) (float64 $most)) }}
{{- fail (printf "%s.requests.%s %v is more than %s.limits.%s %v" $name $what $asked $name $what (get $limits $what)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A quantity in thousandths; nothing where it is none, or written in another way. */}}
{{- define "loramux.quantity" -}}
{{- $number := regexFind "^[0-9.]+" (toString .) }}
{{- $unit := trimPrefix $number (toString .) }}
{{- $units := dict "m" 1 "" 1000 "k" 1e6 "M" 1e9 "G" 1e12 "T" 1e15 "Ki" 1024e3 "Mi" 1048576e3 "Gi" 1073741824e3 "Ti" 1099511627776e3 }}
{{- if and $number (hasKey $units $unit) }}{{ mulf $number (get $units $unit) }}{{ end }}
{{- end }}

{{/* What `loramux fetch` refuses. */}}
{{- define "loramux.check.fetch" -}}
{{- with .Values.model.fetch }}
{{- $archive := regexMatch "^https?://" .source }}
{{- if and $archive (not .sha256) }}
{{- fail "model.fetch.source is an archive, which needs model.fetch.sha256" }}
{{- end }}
{{- if and .source .sha256 (not $archive) }}
{{- fail "model.fetch.sha256 is for archives over http:// and https:// alone" }}
{{- end }}
{{- if and .source .revision (not (hasPrefix "hf://" .source)) }}
{{- fail "model.fetch.revision is for hf:// alone" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Declared adapters that would never be there: an emptyDir has what is fetched, and what containers or mounts of one's own bring. */}}
{{- define "loramux.check.adapters" -}}
{{- $own := or .Values.initContainers .Values.extraContainers .Values.extraVolumeMounts .Values.adapters.existingConfigMap }}
{{- if and .Values.model.fetch.source (hasPrefix "emptyDir" (include "loramux.modelVolume" . | trim)) (not $own) }}
{{- range dig "adapters" list (.Values.adapters.manifest | default dict) }}
{{- $source := trimPrefix "file://" (toString .source) }}
{{- if and (hasPrefix "/models/" $source) (not (hasPrefix (printf "/models/%s/" $.Values.model.base) $source)) }}
{{- fail (printf "adapters.manifest: nothing fills %s, the source of %v: the volume is an emptyDir, to which model.fetch brings %s alone" $source .name $.Values.model.base) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "loramux.check.metrics" -}}
{{- $names := .Values.settings.metrics_names | default (list "loramux" "vllm") }}
{{- if and .Values.picker.enabled (not (has "vllm" $names)) }}
{{- fail "picker needs vllm among settings.metrics_names" }}
{{- end }}
{{- with .Values.scaling.hpa }}
{{- if and .enabled (hasPrefix "loramux_" .metric) (not (has "loramux" $names)) }}
{{- fail "scaling.hpa.metric needs loramux among settings.metrics_names" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "loramux.check.scaling" -}}
{{- if and .Values.scaling.hpa.enabled .Values.scaling.keda.enabled }}
{{- fail "scaling: hpa and keda are both on, of which each would undo what the other does" }}
{{- end }}
{{- range $by := list "hpa" "keda" }}
{{- with get $.Values.scaling $by }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "scaling.%s: minReplicas %d is more than maxReplicas %d" $by (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.scaling.keda }}
{{- if and .enabled (not .query) }}
{{- if and (eq (int .minReplicas) 0) (not .triggers) }}
{{- fail "scaling.keda.minReplicas 0 needs scaling.keda.query or triggers: where no server is, nothing says that one is waited for" }}
{{- end }}
{{- if not $.Values.monitoring.podMonitor.enabled }}
{{- fail "scaling.keda asks by the PodMonitor's labels: it needs monitoring.podMonitor.enabled, or scaling.keda.query" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A StatefulSet has none of these, and would drop them without a word. */}}
{{- define "loramux.check.claims" -}}
{{- if .Values.stateClaim.enabled }}
{{- if eq (.Values.strategy.type | default "RollingUpdate") "Recreate" }}
{{- fail "strategy.type Recreate is for pods without stateClaim" }}
{{- end }}
{{- if ne (toJson .Values.strategy.rollingUpdate) (toJson (dict "maxSurge" 1 "maxUnavailable" 0)) }}
{{- fail "strategy.rollingUpdate is for pods without stateClaim" }}
{{- end }}
{{- if ne (int .Values.progressDeadlineSeconds) 600 }}
{{- fail "progressDeadlineSeconds is for pods without stateClaim" }}
{{- end }}
{{- end }}
{{- end }}
