{{/* The configuration of a stage as TOML: what the chart sets, and of `config` what the stage reads. */}}
{{- define "finemesh.stage.config" -}}
{{- $user := .root.Values.config }}
{{- $stage := .stage }}
{{- $config := dict $stage.section (index $user $stage.section) }}
{{- $_ := set $config "telemetry" $user.telemetry }}
{{- if $stage.hasModels }}
{{-   $_ := set $config "models" $user.models }}
{{- end }}
{{- if $stage.hasCollections }}
{{-   $_ := set $config "storage" (include "finemesh.config.storage" . | fromJson) }}
{{- end }}
{{- if $stage.isServer }}
{{-   $_ := set $config "server" (merge (include "finemesh.config.server" . | fromJson) $user.server) }}
{{-   $_ := set $config "telemetry" (merge (dict "prometheus_address" "0.0.0.0:9464") $user.telemetry) }}
{{- end }}
{{- if $stage.callees }}
{{-   $_ := set $config "peers" (include "finemesh.config.peers" . | fromJson) }}
{{- end }}
{{- include "finemesh.toml" (dict "table" $config "path" "") | trim }}
{{- end }}

{{/* Of the stages only those that call a stage may call it. The public port is anybody's who has a key. */}}
{{- define "finemesh.config.server" -}}
{{- $server := dict "address" "0.0.0.0:7700" }}
{{- $access := dict }}
{{- if .root.Values.tls.enabled }}
{{-   $tls := dict "certificate" "/etc/finemesh/tls/tls.crt" "key" "/etc/finemesh/tls/tls.key" }}
{{-   if or .stage.service .root.Values.tls.clientCertificates }}
{{-     $_ := set $tls "client_ca" "/etc/finemesh/tls/ca.crt" }}
{{-   end }}
{{-   $_ := set $server "tls" $tls }}
{{-   with .stage.service }}
{{-     $callers := list }}
{{-     range $.stage.callers }}
{{-       $callers = append $callers (include "finemesh.stage.identity" (dict "root" $.root "stage" .)) }}
{{-     end }}
{{-     $_ := set $access "callers" (dict . $callers) }}
{{-   end }}
{{- else }}
{{-   $_ := set $server "plaintext" true }}
{{- end }}
{{- if include "finemesh.stage.hasApiKeys" . }}
{{-   $_ := set $access "api_keys_file" (printf "/etc/finemesh/api-keys/%s" .root.Values.apiKeys.key) }}
{{- end }}
{{- with $access }}
{{-   $_ := set $server "access" . }}
{{- end }}
{{- toJson $server }}
{{- end }}

{{/* Whom the stage calls, and how. */}}
{{- define "finemesh.config.peers" -}}
{{- $peers := dict }}
{{- range .stage.callees }}
{{-   $_ := set $peers .section (list (printf "dns:///%s:7700" .fullname)) }}
{{- end }}
{{- if .root.Values.tls.enabled }}
{{-   $_ := set $peers "tls" (dict "ca" "/etc/finemesh/tls/ca.crt" "certificate" "/etc/finemesh/tls/tls.crt" "key" "/etc/finemesh/tls/tls.key") }}
{{- else }}
{{-   $_ := set $peers "plaintext" true }}
{{- end }}
{{- toJson (merge $peers .root.Values.config.peers) }}
{{- end }}

{{- define "finemesh.config.storage" -}}
{{- $storage := dict "location" "/var/lib/finemesh" }}
{{- with .root.Values.storage }}
{{-   if eq .type "s3" }}
{{-     $location := printf "s3://%s/%s" .s3.bucket (trimAll "/" .s3.prefix) | trimSuffix "/" }}
{{-     $storage = dict "location" $location "cache_folder" "/var/cache/finemesh" }}
{{-   end }}
{{- end }}
{{- toJson $storage }}
{{- end }}

{{/* Whether clients have to send a key. */}}
{{- define "finemesh.stage.hasApiKeys" -}}
{{- if and .root.Values.apiKeys.enabled (eq .stage.key "orchestrator") }}true{{ end }}
{{- end }}

{{/* A table as TOML. Helm's own toToml writes whole numbers as 500.0; its numbers, strings and lists in JSON are TOML as well. */}}
{{- define "finemesh.toml" -}}
{{- range $key, $value := .table }}
{{-   if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "finemesh.toml.key" $key }} = {{ toJson $value }}
{{-   end }}
{{- end }}
{{- range $key, $value := .table }}
{{-   if and (kindIs "map" $value) (or $value $.path) }}
{{-     $path := list $.path (include "finemesh.toml.key" $key) | compact | join "." }}
[{{ $path }}]
{{-     include "finemesh.toml" (dict "table" $value "path" $path) }}
{{-   end }}
{{- end }}
{{- end }}

{{- define "finemesh.toml.key" -}}
{{- regexMatch "^[A-Za-z0-9_-]+$" . | ternary . (quote .) }}
{{- end }}
