{{/* Where clients call: gRPC or HTTP, on the servers' own ports. */}}
{{- define "loramux.envoy.listener" -}}
{{- $router := .root.Values.router -}}
- name: {{ .protocol }}
  address: {socket_address: {address: {{ $router.bind | quote }}, port_value: {{ get $router.ports .protocol }}}}
  # A call's message is read whole before its server is chosen: as large as the server takes, which refuses larger ones.
  per_connection_buffer_limit_bytes: {{ include "loramux.envoy.largest" .root }}
  # A client that is gone without a word is found within a minute.
  socket_options:
    - {description: SO_KEEPALIVE, level: 1, name: 9, int_value: 1}
    - {description: TCP_KEEPIDLE, level: 6, name: 4, int_value: 30}
    - {description: TCP_KEEPINTVL, level: 6, name: 5, int_value: 10}
    - {description: TCP_KEEPCNT, level: 6, name: 6, int_value: 3}
  filter_chains:
    - filters:
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: {{ .protocol }}
            codec_type: {{ ternary "HTTP2" "AUTO" (eq .protocol "grpc") }}
            {{- if eq .protocol "grpc" }}
            # As much of a message as fits is read whole, see above.
            http2_protocol_options: {initial_stream_window_size: {{ max 16777216 (include "loramux.envoy.largest" .root | int) }}}
            {{- end }}
            stream_idle_timeout: 0s  # a call that waits in the queue is silent
            request_headers_timeout: 10s
            # A message that does not come holds memory. The time ends with the request, or with an answer's first byte:
            # answers run on, and so do streams both ways that were answered once.
            request_timeout: 30s
            # Clients come to know other Envoys, and leave one that goes; their running calls finish.
            common_http_protocol_options: {max_connection_duration: {{ $router.maxConnectionAgeSeconds }}s}
            http1_safe_max_connection_duration: true
            # Nobody's x-envoy-* headers change retries or timeouts, and a request's id stays the caller's.
            use_remote_address: true
            internal_address_config: {cidr_ranges: [{address_prefix: 255.255.255.255, prefix_len: 32}]}
            generate_request_id: false
            preserve_external_request_id: true
            server_header_transformation: PASS_THROUGH
            {{- if $router.accessLog }}
            access_log:
              - name: envoy.access_loggers.stdout
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
                  log_format: {json_format: {{ include "loramux.envoy.accessLog" . }}}
            {{- end }}
            {{- if eq .protocol "http" }}
            # Envoy's own refusals, as OpenAI's clients read them.
            local_reply_config:
              body_format: {json_format: {error: {message: "%LOCAL_REPLY_BODY%", type: "api_error", param: null, code: null}}}
            {{- end }}
            http_filters:
              {{- include "loramux.envoy.filters" . | nindent 14 }}
            route_config:
              virtual_hosts:
                - name: {{ .protocol }}
                  domains: ["*"]
                  routes:
                    {{- include "loramux.envoy.routes" . | nindent 20 }}
      {{- if $router.tls.enabled }}
      {{- include "loramux.envoy.downstreamTLS" . | nindent 6 }}
      {{- end }}
{{- end }}

{{- define "loramux.envoy.largest" -}}
{{- add (.Values.settings.max_message_bytes | default 4194304 | int64) 1048576 -}}
{{- end }}

{{- define "loramux.envoy.accessLog" -}}
{{- dict "time" "%START_TIME%" "protocol" .protocol "path" "%REQ(:PATH)%" "adapter" "%REQ(X-LORAMUX-ADAPTER)%" "status" "%RESPONSE_CODE%" "grpc_status" "%GRPC_STATUS%" "flags" "%RESPONSE_FLAGS%" "server" "%UPSTREAM_HOST%" "attempts" "%UPSTREAM_REQUEST_ATTEMPT_COUNT%" "milliseconds" "%DURATION%" | toJson -}}
{{- end }}

{{/*
An adapter's calls go where it is; those of the base anywhere. What is left (adapters' and the server's calls, health,
reflection, pages) may change something, and is tried elsewhere only if it reached nobody.
*/}}
{{- define "loramux.envoy.routes" -}}
{{- $calls := ternary (list "/loramux.v1.Inference/") (list "/v1/completions" "/v1/chat/completions" "/v1/responses" "/v1/messages") (eq .protocol "grpc") -}}
{{- $reset := "connect-failure,refused-stream,reset" -}}
{{- $again := ternary (printf "%s,unavailable,cancelled" $reset) (printf "%s,retriable-status-codes" $reset) (eq .protocol "grpc") -}}
- match:
    prefix: {{ ternary "/loramux.v1.Inference/" "/" (eq .protocol "grpc") }}
    headers: [{name: x-loramux-adapter, present_match: true}]
  route:
    cluster: adapters_{{ .protocol }}
    timeout: 0s  # the caller's deadline is the server's to keep
    hash_policy: [{header: {header_name: x-loramux-adapter}}]
    {{- include "loramux.envoy.retry" (dict "root" .root "on" $again) | nindent 4 }}
{{- range $calls }}
- match: {prefix: {{ . }}}
  route:
    cluster: any_{{ $.protocol }}
    timeout: 0s
    {{- include "loramux.envoy.retry" (dict "root" $.root "on" $again) | nindent 4 }}
{{- end }}
- match: {prefix: /}
  route:
    cluster: any_{{ .protocol }}
    timeout: 0s
    {{- include "loramux.envoy.retry" (dict "root" .root "on" "connect-failure,refused-stream") | nindent 4 }}
{{- end }}

{{- define "loramux.envoy.retry" -}}
retry_policy:
  retry_on: {{ .on }}
  {{- if contains "retriable" .on }}
  retriable_status_codes: [503]  # a server that stops
  {{- end }}
  num_retries: {{ .root.Values.router.retries.count }}
  retry_host_predicate:
    - name: envoy.retry_host_predicates.previous_hosts
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
  host_selection_retry_max_attempts: 32  # each draws from the hash anew, the same ones for every retry
{{- end }}
