{{/* One run of the indexer. Takes root and stage. */}}
{{- define "finemesh.jobSpec" -}}
backoffLimit: {{ .stage.values.backoffLimit }}
template:
  {{- $args := include "finemesh.indexArgs" . | fromYamlArray }}
  {{- include "finemesh.podTemplate" (merge (dict "args" $args) .) | nindent 2 }}
{{- end }}

{{- define "finemesh.indexArgs" -}}
{{- $values := .stage.values }}
{{- $served := list "sparse" "dense" }}
{{- if .root.Values.colbertScorer.enabled }}
{{-   $served = append $served "colbert" }}
{{- end }}
{{- $stages := default $served $values.stages | join "," }}
{{- $args := list "--config" "/etc/finemesh/config/finemesh.toml" "index" "--collection" $values.collection }}
{{- $args = concat $args (list "--shards" (toString .root.Values.shards) "--stages" $stages) $values.extraArgs $values.files }}
{{- toYaml $args }}
{{- end }}
