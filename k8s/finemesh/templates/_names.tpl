{{/* Names and labels. */}}

{{/* At most 35 characters: with a stage's name and a revision behind it, it has to fit into a label. */}}
{{- define "finemesh.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $releaseAndName := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- default $releaseAndName .Values.fullnameOverride | trunc 35 | trimSuffix "-" }}
{{- end }}

{{/* What selects all pods of the release. */}}
{{- define "finemesh.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finemesh.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "finemesh.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What selects the pods of a stage. Takes root and stage, as all of the following. */}}
{{- define "finemesh.stage.selectorLabels" -}}
{{ include "finemesh.selectorLabels" .root }}
app.kubernetes.io/component: {{ .stage.name }}
{{- end }}

{{- define "finemesh.stage.labels" -}}
{{ include "finemesh.labels" .root }}
app.kubernetes.io/component: {{ .stage.name }}
{{- end }}

{{/* Name and labels of an object that a stage has one of. */}}
{{- define "finemesh.stage.metadata" -}}
name: {{ .stage.fullname }}
labels:
  {{- include "finemesh.stage.labels" . | nindent 2 }}
{{- end }}

{{- define "finemesh.serviceAccountName" -}}
{{- $made := .Values.serviceAccount.create | ternary (include "finemesh.fullname" .) "default" }}
{{- default $made .Values.serviceAccount.name }}
{{- end }}

{{/* The claim that holds the collections. */}}
{{- define "finemesh.claimName" -}}
{{- default (include "finemesh.fullname" .) .Values.storage.volume.existingClaim }}
{{- end }}

{{/* The Secret with the stage's certificate. */}}
{{- define "finemesh.stage.tlsSecret" -}}
{{- default (printf "%s-tls" .stage.fullname) (.root.Values.tls.existingSecret | replace "{stage}" .stage.name) }}
{{- end }}

{{/* The names of a stage's service, as certificates have them. */}}
{{- define "finemesh.stage.identity" -}}
{{ .stage.fullname }}.{{ .root.Release.Namespace }}.svc
{{- end }}

{{/* How the public port is called from within the namespace. */}}
{{- define "finemesh.publicUrl" -}}
{{ .Values.tls.enabled | ternary "https" "http" }}://{{ include "finemesh.fullname" . }}:7700
{{- end }}
