{{/* Values that cannot work, each with what to change. All of them are told at once. */}}
{{- define "finemesh.checks" -}}
{{- if lt (int .Values.shards) 1 }}
shards is {{ .Values.shards }}: a collection has at least one. Set shards to 1 or more.
{{- end }}
{{- range $stage := include "finemesh.stages" . | fromJson }}
{{-   if $stage.isServer }}
{{-     include "finemesh.checks.stage" (dict "root" $ "stage" $stage) }}
{{-   end }}
{{- end }}
{{- include "finemesh.checks.storage" . }}
{{- include "finemesh.checks.access" . }}
{{- with .Values.indexer }}
{{- if and (or .job.enabled .cronJob.enabled) (not (and .collection .files)) }}
indexer is switched on without a collection or files. Set indexer.collection, and indexer.files to what its pod mounts or fetches.
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
ingress is enabled without a host. Set ingress.host to the name that clients call.
{{- end }}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) }}
gateway is enabled without a Gateway. Set gateway.parentRefs, e.g. to [{name: public}].
{{- end }}
{{- end }}

{{- define "finemesh.checks.stage" -}}
{{- $key := .stage.key }}
{{- $values := .stage.values }}
{{- $scaling := $values.autoscaling }}
{{- $budget := $values.podDisruptionBudget }}
{{- if lt (int $values.replicas) 1 }}
{{ $key }}.replicas is {{ $values.replicas }}: the mesh needs every stage that is switched on. Set {{ $key }}.replicas or common.replicas to 1 or more.
{{- end }}
{{- if $scaling.enabled }}
{{-   if lt (int $scaling.minReplicas) 1 }}
{{ $key }}.autoscaling.minReplicas is {{ $scaling.minReplicas }}: nobody would answer. Set it to 1 or more.
{{-   end }}
{{-   if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
{{ $key }}.autoscaling.minReplicas is {{ $scaling.minReplicas }}, maxReplicas {{ $scaling.maxReplicas }}. Lower minReplicas, or raise maxReplicas.
{{-   end }}
{{-   if and (eq $scaling.by "keda") (eq $scaling.metric "queue") (not $scaling.prometheusAddress) }}
{{ $key }}.autoscaling: KEDA asks Prometheus for the queue. Set {{ $key }}.autoscaling.prometheusAddress or that of common.
{{-   end }}
{{- end }}
{{- if $budget.enabled }}
{{-   if kindIs "invalid" $budget.minAvailable }}
{{-     if lt (int $budget.maxUnavailable) 1 }}
{{ $key }}.podDisruptionBudget.maxUnavailable is {{ $budget.maxUnavailable }}: no node could ever be drained. Set it to 1 or more, or enabled to false.
{{-     end }}
{{-   else if ge (int $budget.minAvailable) (int .stage.pods) }}
{{ $key }}.podDisruptionBudget.minAvailable is {{ $budget.minAvailable }} of {{ .stage.pods }} pods: no node could ever be drained. Lower it, or raise {{ $key }}.replicas.
{{-   end }}
{{- end }}
{{- end }}

{{- define "finemesh.checks.storage" -}}
{{- with .Values.storage }}
{{- if and (eq .type "s3") (not .s3.bucket) }}
storage.type is s3 without a bucket. Set storage.s3.bucket.
{{- end }}
{{- if and (eq .type "volume") (eq .volume.accessMode "ReadWriteOnce") }}
{{-   range $stage := include "finemesh.stages" $ | fromJson }}
{{-     $values := $stage.values }}
{{-     if and $stage.isSharded (or $values.autoscaling.enabled (gt (int $values.replicas) 1)) }}
{{ $stage.key }} has replicas, but its volume is ReadWriteOnce: all of them would be on one node. Set storage.volume.accessMode to ReadWriteMany, storage.type to s3, or {{ $stage.key }}.replicas to 1 without autoscaling.
{{-     end }}
{{-   end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "finemesh.checks.access" -}}
{{- with .Values.tls }}
{{- $hasIssuer := dig "name" "" .certManager.issuerRef }}
{{- if and .enabled (not (or .existingSecret $hasIssuer)) }}
tls is enabled without certificates. Set tls.existingSecret to Secrets that hold them, or tls.certManager.issuerRef to have them made.
{{- end }}
{{- if and .existingSecret $hasIssuer }}
tls.existingSecret and tls.certManager.issuerRef are both set: cert-manager would overwrite Secrets of yours. Leave one of them empty.
{{- end }}
{{- if and (not .enabled) (or .existingSecret $hasIssuer) }}
tls has certificates, but is not enabled: calls would be plaintext. Set tls.enabled to true.
{{- end }}
{{- if and .clientCertificates (not .enabled) }}
tls.clientCertificates needs TLS. Set tls.enabled to true.
{{- end }}
{{- end }}
{{- with .Values.apiKeys }}
{{- if and .enabled (not .existingSecret) }}
apiKeys is enabled without keys. Set apiKeys.existingSecret to a Secret whose key {{ .key }} holds one a line.
{{- end }}
{{- end }}
{{- end }}
