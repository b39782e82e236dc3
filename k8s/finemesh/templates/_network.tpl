{{/* The pods of some stages, as a policy names them. */}}
{{- define "finemesh.peers" -}}
{{- $peers := list }}
{{- range .stages }}
{{-   $labels := include "finemesh.stage.selectorLabels" (dict "root" $.root "stage" .) | fromYaml }}
{{-   $peers = append $peers (dict "podSelector" (dict "matchLabels" $labels)) }}
{{- end }}
{{- toYaml $peers }}
{{- end }}

{{/* What a stage calls: other stages, S3, and the collector of traces. */}}
{{- define "finemesh.egress" -}}
{{- if .stage.callees }}
- ports:
    - {protocol: TCP, port: 7700}
  to:
    {{- include "finemesh.peers" (dict "root" .root "stages" .stage.callees) | nindent 4 }}
{{- end }}
{{- $urls := list }}
{{- if and .stage.hasCollections (eq .root.Values.storage.type "s3") }}
{{-   $urls = list "https://" .root.Values.storage.s3.endpoint }}
{{- end }}
{{- $urls = append $urls (dig "otlp_endpoint" "" .root.Values.config.telemetry) }}
{{- $ports := list }}
{{- range $urls | compact }}
{{-   $port := regexFind ":[0-9]+" . | trimPrefix ":" | default (hasPrefix "https" . | ternary "443" "80") }}
{{-   $ports = append $ports $port }}
{{- end }}
{{- with uniq $ports }}
- ports:
    {{- range . }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}
{{- end }}
