{{- define "loramux.modelVolume" -}}
{{- with .Values.model }}
{{- if .volume }}
{{- toYaml .volume }}
{{- else if .existingClaim }}
persistentVolumeClaim: {claimName: {{ tpl .existingClaim $ }}, readOnly: {{ not .fetch.source }}}
{{- else if .fetch.source }}
emptyDir: {sizeLimit: {{ .fetch.sizeLimit }}}
{{- else }}
{{- fail "model: one of existingClaim, volume and fetch.source is needed" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "loramux.modelMount" -}}
{name: models, mountPath: /models{{ with .Values.model.subPath }}, subPath: {{ toJson . }}{{ end }}{{ if .readOnly }}, readOnly: true{{ end }}}
{{- end }}

{{/* The init container that brings the base. */}}
{{- define "loramux.fetcher" -}}
{{- with .Values.model.fetch }}
{{- if and $.Values.networkPolicy.enabled (not $.Values.networkPolicy.egress) }}
{{- fail "model.fetch.source needs a rule in networkPolicy.egress that lets the pod reach it" }}
{{- end }}
- name: fetch-base
  image: {{ include "loramux.image" $ | quote }}
  imagePullPolicy: {{ $.Values.image.pullPolicy }}
  args:
    - fetch
    - {{ .source | quote }}
    - {{ printf "/models/%s" $.Values.model.base | toJson }}
    {{- with .revision }}
    - {{ printf "--revision=%s" . | toJson }}
    {{- end }}
    {{- with .sha256 }}
    - --sha256={{ . }}
    {{- end }}
  env:
    - {name: HF_HOME, value: /tmp/huggingface}
    - {name: HF_XET_CHUNK_CACHE_SIZE_BYTES, value: "0"}  # no second copy in /tmp
    {{- with .env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .envFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  resources:
    {{- toYaml (.resources | default $.Values.resources) | nindent 4 }}
  securityContext:
    {{- toYaml $.Values.securityContext | nindent 4 }}
  volumeMounts:
    - {{ include "loramux.modelMount" $ }}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end }}

{{- define "loramux.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if .Values.gpu.count }}
{{- $gpus := dict .Values.gpu.resource (.Values.gpu.count | int) }}
{{- $_ := set $resources "limits" (merge $gpus ($resources.limits | default dict)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* A probe by gRPC, unless it has a way of its own: (list probe service). */}}
{{- define "loramux.probe" -}}
{{- $probe := index . 0 }}
{{- if not (or $probe.exec $probe.httpGet $probe.tcpSocket $probe.grpc) }}
{{- $grpc := dict "port" 50052 }}
{{- with index . 1 }}{{ $_ := set $grpc "service" . }}{{ end }}
{{- $probe = merge (dict "grpc" $grpc) $probe }}
{{- end }}
{{- toYaml $probe }}
{{- end }}

{{- define "loramux.container" -}}
name: loramux
image: {{ include "loramux.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve, --config, /etc/loramux/loramux.yaml]
ports:
  - {name: grpc, containerPort: 50051}
  - {name: http, containerPort: 8000}
  - {name: health, containerPort: 50052}
  - {name: metrics, containerPort: 9464}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
# live: the port is open (also while the base is loaded) and the engine has not failed.
startupProbe:
  {{- include "loramux.probe" (list .Values.probes.startup "live") | nindent 2 }}
livenessProbe:
  {{- include "loramux.probe" (list .Values.probes.liveness "live") | nindent 2 }}
# Ready: the base is loaded and every declared adapter serves. A rollout with a broken one stops here; a container that
# restarts in a pod that was ready waits only for what it served before (state_file).
readinessProbe:
  {{- include "loramux.probe" (list .Values.probes.readiness "") | nindent 2 }}
{{- with .Values.lifecycle }}
lifecycle:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- include "loramux.resources" . | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  # Whole directories, not single files: only those follow changes.
  - {name: config, mountPath: /etc/loramux, readOnly: true}
  - {name: adapters, mountPath: /etc/loramux-adapters, readOnly: true}
  {{- if .Values.auth.enabled }}
  - {name: tokens, mountPath: /etc/loramux-tokens, readOnly: true}
  {{- end }}
  {{- if .Values.tls.enabled }}
  - {name: tls, mountPath: /etc/loramux-tls, readOnly: true}
  {{- end }}
  - {{ include "loramux.modelMount" (merge (dict "readOnly" true) .) }}
  - {name: cache, mountPath: /cache}
  - {name: state, mountPath: /state}
  - {name: tmp, mountPath: /tmp}
  {{- if .Values.sharedMemory }}
  - {name: shm, mountPath: /dev/shm}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Helm merges a volume's source with the default one, an emptyDir, which gives way. */}}
{{- define "loramux.volumeSource" -}}
{{- toYaml (ternary (omit . "emptyDir") . (gt (len .) 1)) }}
{{- end }}

{{- define "loramux.volumes" -}}
- name: config
  configMap: {name: {{ include "loramux.fullname" . }}}
- name: adapters
  configMap: {name: {{ tpl .Values.adapters.existingConfigMap . | default (printf "%s-adapters" (include "loramux.fullname" .)) }}}
{{- if .Values.auth.enabled }}
- name: tokens
  secret: {secretName: {{ tpl .Values.auth.existingSecret . }}, defaultMode: 0440}
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ tpl .Values.tls.existingSecret . }}, defaultMode: 0440}
{{- end }}
- name: models
  {{- include "loramux.modelVolume" . | trim | nindent 2 }}
- name: cache
  {{- include "loramux.volumeSource" .Values.volumes.cache | nindent 2 }}
{{- if not .Values.stateClaim.enabled }}
# What LoadAdapter registered outlives the container, not the pod. For that each pod needs a claim of its own: two
# servers must not write one file.
- name: state
  {{- include "loramux.volumeSource" .Values.volumes.state | nindent 2 }}
{{- end }}
# Also what Triton builds on a GPU (TRITON_CACHE_DIR in the image), so that a restarted container has it.
- name: tmp
  {{- include "loramux.volumeSource" .Values.volumes.tmp | nindent 2 }}
{{- with .Values.sharedMemory }}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ . }}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
