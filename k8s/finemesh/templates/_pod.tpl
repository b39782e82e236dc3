{{/* The pod that all stages share. Takes root and stage. */}}
{{- define "finemesh.podTemplate" -}}
metadata:
  labels:
    {{- include "finemesh.stage.selectorLabels" . | nindent 4 }}
    {{- with merge (dict) .stage.values.podLabels .root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "finemesh.stage.config" . | sha256sum }}
    {{- with .stage.values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "finemesh.podSpec" . | nindent 2 }}
{{- end }}

{{/* `args` given: a pod that runs this once instead of serving. */}}
{{- define "finemesh.podSpec" -}}
{{- $values := .stage.values -}}
serviceAccountName: {{ default (include "finemesh.serviceAccountName" .root) $values.serviceAccountName }}
automountServiceAccountToken: false
# Variables that begin with FINEMESH are settings, not addresses of Services.
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if .args }}
restartPolicy: Never
{{- else }}
# Sleeping before SIGTERM, 20 s of draining, and what ending takes.
terminationGracePeriodSeconds: {{ add .root.Values.preStopSeconds 20 10 }}
{{- end }}
initContainers:
  - name: check-config
    args: [check-config, /etc/finemesh/config/finemesh.toml]
    {{- include "finemesh.container" . | nindent 4 }}
  {{- with $values.extraInitContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
containers:
  - name: finemesh
    args:
      {{- .args | default (list "--config" "/etc/finemesh/config/finemesh.toml" "serve" "--target" .stage.name) | toYaml | nindent 6 }}
    {{- include "finemesh.container" . | nindent 4 }}
    {{- if not .args }}
    {{- include "finemesh.serving" . | nindent 4 }}
    {{- end }}
volumes:
  {{- include "finemesh.volumes" . | nindent 2 }}
{{- include "finemesh.scheduling" . }}
{{- end }}

{{/* What the program needs, however it is called. */}}
{{- define "finemesh.container" -}}
{{- $values := .stage.values -}}
{{- $image := .root.Values.image -}}
{{- $version := $image.digest | empty | ternary (printf ":%s" (default .root.Chart.AppVersion $image.tag)) (printf "@%s" $image.digest) -}}
image: {{ $image.repository }}{{ $version }}
imagePullPolicy: {{ $image.pullPolicy }}
command: [finemesh]
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
{{- $env := concat (include "finemesh.env" . | fromYamlArray) $values.extraEnv }}
{{- with $env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $envFrom := $values.extraEnvFrom }}
{{- if and .stage.hasCollections (eq .root.Values.storage.type "s3") .root.Values.storage.s3.existingSecret }}
{{-   $envFrom = prepend $envFrom (dict "secretRef" (dict "name" .root.Values.storage.s3.existingSecret)) }}
{{- end }}
{{- with $envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - {name: config, mountPath: /etc/finemesh/config, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  {{- if include "finemesh.stage.hasTls" . }}
  - {name: tls, mountPath: /etc/finemesh/tls, readOnly: true}
  {{- end }}
  {{- if include "finemesh.stage.hasApiKeys" . }}
  - {name: api-keys, mountPath: /etc/finemesh/api-keys, readOnly: true}
  {{- end }}
  {{- if .stage.hasCollections }}
  {{- if eq .root.Values.storage.type "s3" }}
  - {name: cache, mountPath: /var/cache/finemesh}
  {{- else }}
  - {name: collections, mountPath: /var/lib/finemesh, readOnly: {{ .stage.isServer }}}
  {{- end }}
  {{- end }}
  {{- with $values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "finemesh.env" -}}
{{- if .stage.isSharded }}
- name: FINEMESH__{{ upper .stage.section }}__ORDINAL
  valueFrom:
    fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}
{{- end }}
{{- if and .stage.hasCollections (eq .root.Values.storage.type "s3") }}
{{- with .root.Values.storage.s3.region }}
- {name: AWS_REGION, value: {{ quote . }}}
{{- end }}
{{- with .root.Values.storage.s3.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ quote . }}}
{{- if hasPrefix "http://" . }}
- {name: AWS_ALLOW_HTTP, value: "true"}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Only servers have certificates: the indexer talks to nothing but the storage. */}}
{{- define "finemesh.stage.hasTls" -}}
{{- if and .root.Values.tls.enabled .stage.isServer }}true{{ end }}
{{- end }}

{{/* Ports, probes and the way out. The kubelet's own gRPC probe knows no TLS, so the program asks itself. */}}
{{- define "finemesh.serving" -}}
{{- $health := list "finemesh" "--config" "/etc/finemesh/config/finemesh.toml" "health" -}}
{{- $isLive := append $health "--live" -}}
ports:
  - {name: grpc, containerPort: 7700}
  - {name: metrics, containerPort: 9464}
# Segments and models are loaded. The orchestrator is ready when others are, which is no reason to start it again.
startupProbe:
  exec:
    command: {{ eq .stage.key "orchestrator" | ternary $isLive $health | toJson }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add .stage.values.startupSeconds 4) 5 }}
readinessProbe:
  exec:
    command: {{ toJson $health }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  exec:
    command: {{ toJson $isLive }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
lifecycle:
  preStop:
    sleep: {seconds: {{ .root.Values.preStopSeconds }}}
{{- end }}

{{- define "finemesh.volumes" -}}
- name: config
  configMap: {name: {{ .stage.fullname }}}
- name: tmp
  emptyDir: {sizeLimit: {{ .stage.values.workSize | default "1Gi" }}}
{{- if include "finemesh.stage.hasTls" . }}
- name: tls
  secret: {secretName: {{ include "finemesh.stage.tlsSecret" . }}, defaultMode: 0440}
{{- end }}
{{- if include "finemesh.stage.hasApiKeys" . }}
- name: api-keys
  secret: {secretName: {{ .root.Values.apiKeys.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- if .stage.hasCollections }}
{{- if ne .root.Values.storage.type "s3" }}
- name: collections
  persistentVolumeClaim: {claimName: {{ include "finemesh.claimName" .root }}}
{{- else if not (and .stage.isSharded .root.Values.storage.cache.persistent) }}
- name: cache
  emptyDir: {sizeLimit: {{ .root.Values.storage.cache.size }}}
{{- end }}
{{- end }}
{{- with .stage.values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "finemesh.scheduling" -}}
{{- $values := .stage.values }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with mergeOverwrite (include "finemesh.oneNode" . | fromYaml) $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if not .args }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - labelSelector:
      matchLabels:
        {{- include "finemesh.stage.selectorLabels" $ | nindent 8 }}
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A volume for one node: whoever mounts it has to be there. */}}
{{- define "finemesh.oneNode" -}}
{{- if and .stage.hasCollections (eq .root.Values.storage.type "volume") (eq .root.Values.storage.volume.accessMode "ReadWriteOnce") }}
podAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          {{- include "finemesh.selectorLabels" .root | nindent 10 }}
        matchExpressions:
          - key: app.kubernetes.io/component
            operator: In
            values: [sparse-retriever, dense-retriever, colbert-scorer, indexer]
{{- end }}
{{- end }}
