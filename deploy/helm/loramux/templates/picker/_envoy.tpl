{{/* Ask the picker of an adapter, in Lua: it names servers by the pool's port, that of metrics. */}}
{{- define "loramux.envoy.asking" -}}
-- Not with the call itself: a picker that is gone or hangs would fail it. Without an answer the hash decides.
local function pick(handle, name)
  local told = handle:httpCall("choice", {
    [":method"] = "POST", [":path"] = "/", [":authority"] = "picker", ["x-gateway-model-name-rewrite"] = name,
  }, "{}", {{ .root.Values.picker.timeoutMilliseconds }})
  local hosts, found = ((told["x-hosts"] or "") .. ","):gsub(":9464,", ":{{ ternary 50051 8000 (eq .protocol "grpc") }},")
  if found > 0 then
    handle:headers():add("x-gateway-destination-endpoint", hosts:sub(1, -2))
  end
end
{{- end }}

{{/* Where it is asked: what it says in a header of the request comes back in one of the answer. */}}
{{- define "loramux.envoy.choice" -}}
- name: choice
  address: {socket_address: {address: 127.0.0.1, port_value: {{ .Values.router.ports.choice }}}}
  ignore_global_conn_limit: true
  filter_chains:
    - filters:
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: choice
            codec_type: HTTP2
            http_filters:
              - name: envoy.filters.http.ext_proc
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                  grpc_service: {envoy_grpc: {cluster_name: picker}}
                  processing_mode:
                    request_header_mode: SEND
                    request_body_mode: FULL_DUPLEX_STREAMED
                    request_trailer_mode: SEND
                    response_header_mode: SKIP
                    response_body_mode: NONE
                    response_trailer_mode: SKIP
              - name: envoy.filters.http.router
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
            route_config:
              virtual_hosts:
                - name: choice
                  domains: ["*"]
                  routes:
                    - match: {prefix: /}
                      direct_response: {status: 200}
                      response_headers_to_add:
                        - header: {key: x-hosts, value: "%REQ(x-gateway-destination-endpoint)%"}
{{- end }}

{{- define "loramux.envoy.pickerClusters" -}}
{{- range $name, $port := dict "choice" (.Values.router.ports.choice | int) "picker" 9002 }}
- name: {{ $name }}
  connect_timeout: 1s
  circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}
  {{- include "loramux.envoy.http2" $ | nindent 2 }}
  load_assignment:
    cluster_name: {{ $name }}
    endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{ $port }}}}}}]}]
{{- end }}
{{- end }}
