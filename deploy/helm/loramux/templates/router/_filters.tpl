{{/* From a call's message to the name of its adapter, and from that to the servers it may go to. */}}
{{- define "loramux.envoy.filters" -}}
{{- $grpc := eq .protocol "grpc" -}}
{{- if $grpc -}}
- name: envoy.filters.http.grpc_field_extraction
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig
    # Of inference.proto what names an adapter: deploy/envoy/fields.py
    descriptor_set: {inline_bytes: {{ .root.Files.Get "files/envoy/fields.txt" | trim }}}
    extractions_by_method:
      loramux.v1.Inference.Generate: &fields
        request_field_extractions: {adapter_id: {}, adapters.adapter_id: {}}
      loramux.v1.Inference.GenerateStream: *fields
{{- else -}}
- name: envoy.filters.http.json_to_metadata
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata
    request_rules:
      allow_content_types_regex: {regex: "(?i)application/json *(;.*)?"}  # in any case, and with parameters
      rules:
        - selectors: [{key: model}]
          on_present: {metadata_namespace: loramux, key: model}
{{- end }}
- name: envoy.filters.http.lua
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
    default_source_code:
      inline_string: |
        {{- include "loramux.envoy.naming" . | nindent 8 }}
{{- if include "loramux.placement.enabled" .root }}
{{ include "loramux.envoy.placing" . }}
{{- end }}
- name: envoy.filters.http.router
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
    suppress_envoy_headers: true
{{- end }}

{{- define "loramux.envoy.naming" -}}
{{- $grpc := eq .protocol "grpc" -}}
{{- if $grpc -}}
local function adapter(fields)
  local found = fields["adapter_id"] or {}
  local several = fields["adapters.adapter_id"] or {}
  return found[1] or several[1]  -- a composition goes by its first
end
{{- else -}}
local base = { {{- range include "loramux.baseNames" .root | fromJsonArray }}[{{ . | quote }}] = true, {{ end -}} }
local function adapter(fields)
  local name = fields["model"]
  if type(name) == "string" and not base[name] then return name end
end
{{- end }}
{{- if .root.Values.picker.enabled }}
{{ include "loramux.envoy.asking" . }}
{{- end }}
function envoy_on_request(handle)
  local headers = handle:headers()
  -- What the caller sent under these names does not count.
  headers:remove("x-loramux-adapter")
  headers:remove("x-gateway-destination-endpoint")
  local fields = handle:streamInfo():dynamicMetadata():get("{{ ternary "envoy.filters.http.grpc_field_extraction" "loramux" $grpc }}")
  local name = fields and adapter(fields)
  -- A name that no header can have is for any server to refuse.
  if name and #name > 0 and #name <= 1024 and not name:find("%c") then
    headers:add("x-loramux-adapter", name)
    {{- if .root.Values.picker.enabled }}
    pick(handle, name)
    {{- end }}
  end
  handle:clearRouteCache()
end
{{- end }}
