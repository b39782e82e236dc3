{{/* The mesh. Workloads, configuration, network policies and the lists of who may call whom are all made from this table. */}}
{{- define "finemesh.graph" -}}
orchestrator:
  workload: Deployment
  calls: [encoder, sparseRetriever, denseRetriever, colbertScorer, crossEncoder]
encoder:
  workload: Deployment
  service: finemesh.encoder.v1.EncoderService
  hasModels: true
sparseRetriever:
  workload: StatefulSet
  service: finemesh.sparse.v1.SparseRetrieverService
  hasCollections: true
denseRetriever:
  workload: StatefulSet
  service: finemesh.dense.v1.DenseRetrieverService
  hasCollections: true
colbertScorer:
  workload: StatefulSet
  service: finemesh.colbert.v1.ColbertScorerService
  hasCollections: true
  calls: [encoder]
crossEncoder:
  workload: Deployment
  service: finemesh.rerank.v1.RerankerService
  hasModels: true
indexer:
  workload: Job
  hasModels: true
  hasCollections: true
{{- end }}

{{/*
The stages that are switched on, by key, as JSON. Each has what the table says, and
  key, name, section  as values, Kubernetes and the configuration write it
  fullname            of its objects
  values              its own over the common ones
  isServer            whether it serves gRPC
  isSharded           whether a pod's index says which shard it has
  pods, maxPods       at first, and where it is scaled
  callees, callers    the stages that it calls and that call it: key, name, section, fullname
*/}}
{{- define "finemesh.stages" -}}
{{- $stages := dict }}
{{- range $key, $facts := include "finemesh.graph" . | fromYaml }}
{{-   $own := index $.Values $key | default dict }}
{{-   $values := mergeOverwrite (deepCopy $.Values.common) (deepCopy $own) }}
{{-   $isServer := ne $facts.workload "Job" }}
{{-   $isOn := $isServer | ternary (dig "enabled" true $values) (or (dig "job" "enabled" false $values) (dig "cronJob" "enabled" false $values)) }}
{{-   if $isOn }}
{{-     $stage := dict "key" $key "name" (kebabcase $key) "section" (snakecase $key) "values" $values "isServer" $isServer }}
{{-     $_ := set $stage "fullname" (printf "%s-%s" (include "finemesh.fullname" $) $stage.name) }}
{{-     $_ := set $stage "isSharded" (eq $facts.workload "StatefulSet") }}
{{-     $podsOfReplica := $stage.isSharded | ternary $.Values.shards 1 }}
{{-     $scaling := $values.autoscaling }}
{{-     $_ := set $stage "pods" (mul $podsOfReplica ($scaling.enabled | ternary $scaling.minReplicas $values.replicas)) }}
{{-     $_ := set $stage "maxPods" (mul $podsOfReplica $scaling.maxReplicas) }}
{{-     $_ := set $stages $key (merge $stage $facts) }}
{{-   end }}
{{- end }}
{{- range $key, $stage := $stages }}
{{-   $callees := list }}
{{-   $callers := list }}
{{-   range $otherKey, $other := $stages }}
{{-     $reference := pick $other "key" "name" "section" "fullname" }}
{{-     if has $otherKey $stage.calls }}
{{-       $callees = append $callees $reference }}
{{-     end }}
{{-     if has $key $other.calls }}
{{-       $callers = append $callers $reference }}
{{-     end }}
{{-   end }}
{{-   $_ := set $stage "callees" $callees }}
{{-   $_ := set $stage "callers" $callers }}
{{- end }}
{{- toJson $stages }}
{{- end }}
