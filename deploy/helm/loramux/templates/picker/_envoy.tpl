{{/* The picker's filter: asked with the adapter's name, it names servers by the pool's port, that of metrics. */}}
{{- define "loramux.envoy.picking" -}}
- name: envoy.filters.http.ext_proc
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
    grpc_service: {envoy_grpc: {cluster_name: picker}, timeout: 10s}
    message_timeout: 1s
    failure_mode_allow: true  # without a picker the adapter's hash decides
    # Requests alone: with answers a stream would be held back until its end.
    processing_mode:
      request_header_mode: SEND
      request_body_mode: FULL_DUPLEX_STREAMED
      request_trailer_mode: SEND
      response_header_mode: SKIP
      response_body_mode: NONE
      response_trailer_mode: SKIP
- name: envoy.filters.http.lua.ports
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
    default_source_code:
      inline_string: |
        function envoy_on_request(handle)
          local hosts = handle:headers():get("x-gateway-destination-endpoint")
          if hosts then
            hosts = (hosts .. ","):gsub(":9464,", ":{{ .port }},"):sub(1, -2)
            handle:headers():replace("x-gateway-destination-endpoint", hosts)
          end
        end
{{- end }}
