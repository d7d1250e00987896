"""Whatever an operator writes by mistake is refused before anything is installed, with its key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.chart.conftest import APIS, CHART
from tests.chart.given import group, values, variant

if TYPE_CHECKING:
    from tests.chart.conftest import Helm

    # What to render, and what the refusal has to say.
    Cases = dict[str, tuple[dict[str, Any], str]]

VARIANT = "config.models[0].variants[0]"
GROUP = "config.node_groups[0]"
MIG = "nvidia.com/mig-1g.10gb"
LABELLED = {"node_labels": {"pool": ["a"]}}
CORES = group(name="cpu", accelerator="cpu", accelerators_per_node=4, **LABELLED)


def cores(**changes: Any) -> dict[str, Any]:
    return variant(accelerator="cpu", **{"kv_cache_gib": 1, **changes})


def resources(**given: Any) -> dict[str, Any]:
    return values(worker={"resources": given})


def unknown(section: str, key: str) -> str:
    return f"at '/{section}': additional properties '{key}' not allowed"


UNKNOWN_KEYS: Cases = {
    "values": (values(imagee={}), "additional properties 'imagee' not allowed"),
    "image": (values(image={"tagg": "x"}), unknown("image", "tagg")),
    "pull secret": (values(image={"pullSecrets": [{"name": "a", "key": "b"}]}), "pullSecrets/0"),
    "head": (values(head={"replicas": 2}), unknown("head", "replicas")),
    "worker": (values(worker={"gpus": 8}), "additional properties 'gpus' not allowed"),
    "worker group": (
        values(workerGroups={"h100": {"gpus": 8}}),
        unknown("workerGroups/h100", "gpus"),
    ),
    "resources": (resources(request={"cpu": "4"}), "'request' not allowed"),
    "model cache": (values(modelCache={"path": "/x"}), unknown("modelCache", "path")),
    "service": (values(service={"port": 80}), unknown("service", "port")),
    "route": (values(grpcRoute={"hosts": []}), unknown("grpcRoute", "hosts")),
    "gateway of a route": (
        values(httpRoute={"parentRefs": [{"name": "g", "section": "https"}]}),
        unknown("httpRoute/parentRefs/0", "section"),
    ),
    "ingress": (values(ingress={"hosts": ["a.b"]}), unknown("ingress", "hosts")),
    "tls": (values(ingress={"tls": {"secret": "a"}}), unknown("ingress/tls", "secret")),
    "service account": (values(serviceAccount={"created": True}), "'created' not allowed"),
    "disruption budget": (
        values(podDisruptionBudget={"maxUnavailable": 1}),
        unknown("podDisruptionBudget", "maxUnavailable"),
    ),
    "monitor": (values(podMonitor={"intervall": "15s"}), unknown("podMonitor", "intervall")),
    "alert": (
        values(alertRules={"extra": [{"alert": "a", "expr": "up", "duration": "5m"}]}),
        unknown("alertRules/extra/0", "duration"),
    ),
    "otlp": (values(otlp={"url": "http://a"}), unknown("otlp", "url")),
    "hub token": (values(hubToken={"secret": "a"}), unknown("hubToken", "secret")),
    "pod security": (
        values(podSecurityContext={"runAsRoot": False}),
        unknown("podSecurityContext", "runAsRoot"),
    ),
    "security": (values(securityContext={"privilege": True}), "'privilege' not allowed"),
    "toleration": (values(head={"tolerations": [{"keys": "a"}]}), "head/tolerations/0"),
    "affinity": (values(worker={"affinity": {"nodeAfinity": {}}}), "'nodeAfinity' not allowed"),
    "spread": (
        values(worker={"topologySpreadConstraints": [{"maxSkew": 1, "key": "zone"}]}),
        "topologySpreadConstraints/0",
    ),
    "probe": (values(head={"livenessProbe": {"initialDelay": 5}}), "'initialDelay' not allowed"),
    "variable": (values(head={"env": [{"name": "A", "vale": "b"}]}), "'vale' not allowed"),
    "volume": (
        values(worker={"volumes": [{"name": "a", "emptydir": {}}]}),
        "'emptydir' not allowed",
    ),
    "mount": (values(worker={"volumeMounts": [{"name": "a", "path": "/a"}]}), "'path' not allowed"),
    "container": (
        values(head={"initContainers": [{"name": "a", "img": "b"}]}),
        "'img' not allowed",
    ),
    "peer": (values(networkPolicy={"enabled": True, "from": [{"pods": {}}]}), "networkPolicy/from"),
    "config": (values(config={"modles": []}), unknown("config", "modles")),
    "config.gateway": (values(config={"gateway": {"port": 1}}), unknown("config/gateway", "port")),
    "config.planner": (
        values(config={"planner": {"node": "kubernetes"}}),
        unknown("config/planner", "node"),
    ),
    "config.planner.adapt": (
        values(config={"planner": {"nodes": "kubernetes", "adapt": {"on": True}}}),
        unknown("config/planner/adapt", "on"),
    ),
    "config.scheduler": (values(config={"scheduler": {"name": "a"}}), "config/scheduler"),
    "config.energy": (values(config={"energy": {"metre": "model"}}), "config/energy"),
    "service class": (
        values(config={"service_classes": {"standard": {"ttft_s": 1, "tpot_s": 1, "ttft": 1}}}),
        unknown("config/service_classes/standard", "ttft"),
    ),
    "config.models": (
        {"config": {"models": [{"name": "m", "variants": [variant()], "variant": 1}]}},
        unknown("config/models/0", "variant"),
    ),
    "variant": (
        values(variant(max_replica=2)),
        unknown("config/models/0/variants/0", "max_replica"),
    ),
    "checkpoint": (values(variant(checkpoint={"hub": "a/b", "rev": "c"})), "'rev' not allowed"),
    "node group": (values(groups=[group(nodes=2)]), unknown("config/node_groups/0", "nodes")),
}

TYPES: Cases = {
    "a number as a text": (values(variant(max_batch="many")), "variants/0/max_batch"),
    "a text as a number": (values(idleTimeoutSeconds="60"), "/idleTimeoutSeconds"),
    "a switch as a text": (values(prePull={"enabled": "yes"}), "/prePull/enabled"),
    "a list as a section": (values(workerGroups=[{"name": "h100"}]), "/workerGroups"),
    "a section as a list": (values(head={"tolerations": {"key": "a"}}), "/head/tolerations"),
    "a model that is a name": (values(config={"models": ["m"]}), "/config/models/0"),
    "a checkpoint that is a name": (values(variant(checkpoint="a/b")), "variants/0/checkpoint"),
    "a section that is missing": (values(worker=None), "missing property 'worker'"),
    "a port that is missing": (values(service={"httpPort": None}), "missing property 'httpPort'"),
    "no configuration": ({"config": None}, "missing property 'config'"),
    "an annotation with a number": (
        values(service={"annotations": {"prometheus.io/port": 8080}}),
        "/service/annotations/prometheus.io~1port",
    ),
    "an annotation with a switch": (
        values(head={"annotations": {"a": True}}),
        "/head/annotations/a",
    ),
    "a label with a number": (values(head={"labels": {"team": 7}}), "/head/labels/team"),
    "a label with a space": (values(head={"labels": {"team": "a b"}}), "/head/labels/team"),
    "a label of two slashes": (values(worker={"labels": {"a/b/c": "d"}}), "a/b/c"),
    "a label that is too long": (values(head={"labels": {"a": "b" * 64}}), "/head/labels/a"),
    "a selector with a switch": (
        values(worker={"nodeSelector": {"gpu": True}}),
        "nodeSelector/gpu",
    ),
    "a variable with a number": (
        values(head={"env": [{"name": "A", "value": 1}]}),
        "/head/env/0/value",
    ),
    "a variable's name": (
        values(head={"env": [{"name": "A B", "value": "1"}]}),
        "/head/env/0/name",
    ),
    "a probe that is a text": (values(head={"readinessProbe": "/ready"}), "/head/readinessProbe"),
    "an object without a kind": (values(extraObjects=[{"apiVersion": "v1"}]), "/extraObjects/0"),
    "pull secrets as names": (values(image={"pullSecrets": ["a"]}), "/image/pullSecrets/0"),
    "a rule without an expression": (values(alertRules={"extra": [{"alert": "a"}]}), "'expr'"),
}

CHOICES: Cases = {
    "accelerator": (values(variant(accelerator="h1000")), "variants/0/accelerator"),
    "accelerator of a group": (values(groups=[group(accelerator="H100")]), "0/accelerator"),
    "engine": (values(variant(engine="sglang")), "variants/0/engine"),
    "dtype": (values(variant(dtype="fp16")), "variants/0/dtype"),
    "precision of the cache": (values(variant(kv_cache_dtype="int8")), "0/kv_cache_dtype"),
    "pull policy": (values(image={"pullPolicy": "Sometimes"}), "/image/pullPolicy"),
    "model cache": (values(modelCache={"type": "tape"}), "/modelCache/type"),
    "service": (values(service={"type": "clusterIP"}), "/service/type"),
    "protocol": (values(otlp={"endpoint": "http://a", "protocol": "http"}), "/otlp/protocol"),
    "effect": (
        values(head={"tolerations": [{"operator": "Exists", "effect": "NoShedule"}]}),
        "/head/tolerations/0/effect",
    ),
    "operator": (
        values(head={"tolerations": [{"key": "a", "operator": "exists"}]}),
        "/head/tolerations/0/operator",
    ),
    "policy": (values(config={"scheduler": {"policy": "green"}}), "/config/scheduler/policy"),
    "nodes": (values(config={"planner": {"nodes": "k8s"}}), "/config/planner/nodes"),
    "autoscaler": (
        values(config={"planner": {"nodes": "kubernetes", "autoscaler": "keda"}}),
        "/config/planner/autoscaler",
    ),
    "way in": (values(config={"gateway": {"ingress": "all"}}), "/config/gateway/ingress"),
}

AMOUNTS: Cases = {
    "shared memory of nothing": (values(worker={"sharedMemory": "much"}), "/worker/sharedMemory"),
    "shared memory without a unit": (values(worker={"sharedMemory": "8"}), "/worker/sharedMemory"),
    "memory without a unit": (resources(requests={"memory": 8}), "resources/requests/memory"),
    "memory in thousandths": (resources(limits={"memory": "500m"}), "resources/limits/memory"),
    "memory with a wrong unit": (resources(limits={"memory": "8GB"}), "resources/limits/memory"),
    "memory with a large K": (resources(limits={"memory": "8K"}), "resources/limits/memory"),
    "less memory than none": (resources(limits={"memory": "-8Gi"}), "resources/limits/memory"),
    "cores as a word": (resources(requests={"cpu": "four"}), "resources/requests/cpu"),
    "cores with a unit of memory": (resources(requests={"cpu": "4Gi"}), "resources/requests/cpu"),
    "no cores": (resources(requests={"cpu": 0}), "resources/requests/cpu"),
    "half a device": (resources(limits={"rdma/hca": 0.5}), "resources/limits/rdma~1hca"),
    "no size": (values(modelCache={"size": ""}), "/modelCache/size"),
    "a size of zero": (values(modelCache={"size": "0Gi"}), "/modelCache/size"),
    "a port beyond all ports": (values(service={"grpcPort": 70000}), "/service/grpcPort"),
    "a port in the configuration": (values(config={"gateway": {"http_port": 0}}), "http_port"),
    "an interval of nothing": (values(podMonitor={"interval": "often"}), "/podMonitor/interval"),
    "an interval without a unit": (values(podMonitor={"interval": "15"}), "/podMonitor/interval"),
    "a wait of nothing": (
        values(alertRules={"extra": [{"alert": "a", "expr": "up", "for": "5 min"}]}),
        "/alertRules/extra/0/for",
    ),
    "no patience": (values(idleTimeoutSeconds=0), "/idleTimeoutSeconds"),
    "no grace": (values(terminationGracePeriodSeconds=0), "/terminationGracePeriodSeconds"),
    "two heads": (values(podDisruptionBudget={"head": 2}), "/podDisruptionBudget/head"),
    "a negative number": (values(variant(min_replicas=-1)), "variants/0/min_replicas"),
    "a quality beyond all": (values(variant(quality=1.5)), "variants/0/quality"),
    "no time at all": (values(variant(start_s=0)), "variants/0/start_s"),
    "half a node": (values(groups=[group(max_nodes=0.5)]), "node_groups/0/max_nodes"),
    "no power": (
        values(config={"planner": {"nodes": "kubernetes", "power_budget_w": 0}}),
        "/config/planner/power_budget_w",
    ),
    "a version that is none": (values(rayVersion="newest"), "/rayVersion"),
    "an endpoint that is none": (values(otlp={"endpoint": "collector"}), "/otlp/endpoint"),
}

NAMES: Cases = {
    "in capitals": (values(fullnameOverride="Demo"), "/fullnameOverride"),
    "with a line below": (values(fullnameOverride="my_demo"), "/fullnameOverride"),
    "that begins with a digit": (values(fullnameOverride="1demo"), "/fullnameOverride"),
    "that is too long": (values(fullnameOverride="a" * 41), "/fullnameOverride"),
    "of a label": (values(nameOverride="a b"), "/nameOverride"),
    "of a group in capitals": (values(groups=[group(name="H100")]), "node_groups/0/name"),
    "of a group with a line below": (values(groups=[group(name="h_100")]), "node_groups/0/name"),
    "of a group that is too long": (values(groups=[group(name="h" * 64)]), "node_groups/0/name"),
    "of the head's group": (values(groups=[group(name="head")]), f"{GROUP}.name: "),
    "of Ray's head group": (values(groups=[group(name="headgroup")]), f"{GROUP}.name: "),
    "of a variant": (values(variant(name="a b")), "variants/0/name"),
    "of a Secret": (values(hubToken={"name": "Hub", "key": "t"}), "/hubToken/name"),
    "of a Secret's entry": (values(hubToken={"name": "hub", "key": "a b"}), "/hubToken/key"),
    "of a Secret with keys": (
        values(apiKeys={"enabled": True, "existingSecret": "my_keys"}),
        "/apiKeys/existingSecret",
    ),
    "of a Secret for pulling": (
        values(image={"pullSecrets": [{"name": "Pull"}]}),
        "/image/pullSecrets/0/name",
    ),
    "of a certificate": (
        values(ingress={"tls": {"secretName": "My.Cert"}}),
        "/ingress/tls/secretName",
    ),
    "of an account": (values(serviceAccount={"name": "a_b"}), "/serviceAccount/name"),
    "of a claim": (
        values(modelCache={"type": "persistentVolumeClaim", "existingClaim": "A"}),
        "/modelCache/existingClaim",
    ),
    "of a storage class": (
        values(modelCache={"type": "persistentVolumeClaim", "storageClassName": "A"}),
        "/modelCache/storageClassName",
    ),
    "of a runtime class": (
        values(worker={"runtimeClassName": "Nvidia"}),
        "/worker/runtimeClassName",
    ),
    "of a priority class": (values(head={"priorityClassName": "High!"}), "/head/priorityClassName"),
    "of a resource": (values(worker={"gpuResource": "gpu"}), "/worker/gpuResource"),
    "of an image": (values(image={"repository": "https://ghcr.io/a"}), "/image/repository"),
    "of an image with its tag": (values(image={"repository": "ghcr.io/a:b"}), "/image/repository"),
    "of a tag": (values(image={"tag": "a/b"}), "/image/tag"),
    "of a host with a scheme": (
        values(ingress={"enabled": True, "host": "https://a.b"}),
        "/ingress/host",
    ),
    "of a host in capitals": (
        values(httpRoute={"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["A.b"]}),
        "/httpRoute/hostnames/0",
    ),
    "of no Gateway": (values(grpcRoute={"parentRefs": [{"name": ""}]}), "parentRefs/0/name"),
    "of a label of nodes": (
        values(groups=[group(node_labels={"a/b/c": ["d"]})]),
        f"{GROUP}.node_labels.a/b/c: ",
    ),
    "of a value of that": (
        values(groups=[group(node_labels={"pool": ["a b"]})]),
        f"{GROUP}.node_labels.pool: ",
    ),
}

PLACES: Cases = {
    "more GPUs than a node": (
        values(variant(tensor_parallel_size=16)),
        f"{VARIANT}.tensor_parallel_size: 16 GPUs are more than a worker of h100 has (8",
    ),
    "more GPUs than a share of a node": (
        values(variant(tensor_parallel_size=4), groups=[group(workers_per_node=4)]),
        f"{VARIANT}.tensor_parallel_size: 4 GPUs are more than a worker of h100 has (2",
    ),
    "more stages than nodes": (
        values(variant(tensor_parallel_size=8, pipeline_parallel_size=3)),
        f"{VARIANT}.pipeline_parallel_size: 3 stages of 8 GPUs are more than h100 has (16 on 2",
    ),
    "more cores than a node": (
        values(cores(cpus_per_replica=5), groups=[CORES]),
        f"{VARIANT}.cpus_per_replica: 5 cores are more than a worker of cpu has (4",
    ),
    "slices that work together": (
        values(variant(tensor_parallel_size=2), worker={"gpuResource": MIG}),
        f"{VARIANT}.tensor_parallel_size: slices of a GPU ({MIG}) cannot work together",
    ),
    "slices one after the other": (
        values(variant(pipeline_parallel_size=2), worker={"gpuResource": MIG}),
        f"{VARIANT}.pipeline_parallel_size: slices of a GPU",
    ),
    "slices with a limit of power": (
        values(variant(gpu_power_limit_w=300), worker={"gpuResource": MIG}),
        f"{VARIANT}.gpu_power_limit_w: is of a whole GPU",
    ),
    "slices of what has none": (
        values(
            variant(accelerator="l4"),
            groups=[group(name="l4", accelerator="l4")],
            workerGroups={"l4": {"gpuResource": MIG}},
        ),
        "workerGroups.l4.gpuResource: l4 has no MIG",
    ),
    "shares that do not divide": (
        values(groups=[group(workers_per_node=3)]),
        f"{GROUP}.workers_per_node: 3 workers cannot share the 8 accelerators",
    ),
    "a floor over the nodes": (
        values(workerGroups={"h100": {"minReplicas": 3}}),
        "workerGroups.h100.minReplicas: 3 is more than max_nodes",
    ),
    "a floor of all over the nodes": (
        values(worker={"minReplicas": 3}),
        "worker.minReplicas: 3 is more than max_nodes",
    ),
    "settings of no group": (values(workerGroups={"l4": {}}), "workerGroups.l4: config.node_gr"),
    "a variant without nodes": (
        values(variant(accelerator="l4")),
        f'{VARIANT}.accelerator: no group of config.node_groups has "l4"',
    ),
    "no groups": (values(groups=[]), "config.node_groups: must be given"),
    "two groups of a name": (
        values(groups=[group(), group(accelerator="l4")]),
        'config.node_groups[1].name: "h100" names two groups',
    ),
    "two groups of an accelerator": (
        values(groups=[group(), group(name="other")]),
        'config.node_groups[1].accelerator: "h100-sxm" is in two groups',
    ),
    "cores that nothing labels": (
        values(cores(), groups=[{**CORES, "node_labels": {}}]),
        f"{GROUP}.node_labels: must be given",
    ),
    "nodes that Ray would bring": (
        values(config={"planner": {"nodes": "ray"}}),
        "config.planner.nodes: must be kubernetes",
    ),
    "more replicas than GPUs": (
        values(variant(min_replicas=17)),
        f"{VARIANT}.min_replicas: 17 replicas are more than fit on h100 (16, with max_nodes 2)",
    ),
    "replicas that leave gaps": (
        values(variant(tensor_parallel_size=3, min_replicas=5)),
        f"{VARIANT}.min_replicas: 5 replicas are more than fit on h100 (4",
    ),
    "more replicas of all": (
        values(variant(min_replicas=9), variant(name="w", min_replicas=9)),
        f"{GROUP}.max_nodes: 2 nodes have 16 accelerators, and what is always awake",
    ),
    "more that are pinned": (
        values(
            variant(min_replicas=1, max_replicas=20),
            config={"planner": {"nodes": "kubernetes", "pinned": {"v": 18}}},
        ),
        f"{VARIANT}.min_replicas: 18 replicas are more than fit",
    ),
    "cores that do not feed the GPUs": (
        values(variant(max_replicas=16)),
        "worker.resources.requests.cpu: 4 cores of each worker of h100 do not feed its 8",
    ),
    "cores of a group that do not": (
        values(
            variant(tensor_parallel_size=8),
            workerGroups={"h100": {"resources": {"limits": {"cpu": 2}, "requests": {"cpu": 2}}}},
        ),
        "workerGroups.h100.resources.requests.cpu: 2 cores of each worker",
    ),
}

PODS: Cases = {
    "more asked for than allowed": (
        resources(requests={"memory": "16Gi"}),
        "worker.resources.requests.memory: 16Gi is more than the limit 8Gi",
    ),
    "more asked for in another unit": (
        values(head={"resources": {"requests": {"memory": "6000M"}, "limits": {"memory": "5Gi"}}}),
        "head.resources.requests.memory: 6000M is more than the limit 5Gi",
    ),
    "more cores than allowed": (
        values(head={"resources": {"limits": {"cpu": "1500m"}}}),
        "head.resources.requests.cpu: 2 is more than the limit 1500m",
    ),
    "more asked for by a group": (
        values(workerGroups={"h100": {"resources": {"requests": {"memory": "512Gi"}}}}),
        "workerGroups.h100.resources.requests.memory: 512Gi is more than the limit 8Gi",
    ),
    "more asked for by the autoscaler": (
        values(autoscaler={"resources": {"requests": {"memory": "1Gi"}}}),
        "autoscaler.resources.requests.memory: 1Gi is more than the limit 512Mi",
    ),
    "GPUs as a resource": (
        resources(limits={"nvidia.com/gpu": 4}),
        "worker.resources.limits.nvidia.com/gpu: GPUs come from config.node_groups",
    ),
    "a device that is asked for only": (
        resources(requests={"rdma/hca": 1}),
        "worker.resources.requests.rdma/hca: is given to a pod by limits only",
    ),
    "a label that finds pods": (
        values(head={"labels": {"app.kubernetes.io/name": "mine"}}),
        "head.labels.app.kubernetes.io/name: is set already",
    ),
    "a label of KubeRay's": (
        values(workerGroups={"h100": {"labels": {"ray.io/group": "mine"}}}),
        "workerGroups.h100.labels.ray.io/group: is set already",
    ),
    "a variable of the chart's": (
        values(worker={"env": [{"name": "RAY_SERVE_ENABLE_HA_PROXY", "value": "0"}]}),
        "worker.env[0].name: RAY_SERVE_ENABLE_HA_PROXY is set already",
    ),
    "a variable that KubeRay refuses": (
        values(head={"env": [{"name": "RAY_REDIS_ADDRESS", "value": "a"}]}),
        "head.env[0].name: RAY_REDIS_ADDRESS is set already",
    ),
    "a variable given twice": (
        values(head={"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
        "head.env[1].name: A is given twice",
    ),
    "a variable with two values": (
        values(
            head={
                "env": [
                    {
                        "name": "A",
                        "value": "1",
                        "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}},
                    }
                ]
            }
        ),
        "head.env[0].valueFrom: there is a value already",
    ),
    "a volume of the chart's": (
        values(worker={"volumes": [{"name": "shm", "emptyDir": {}}]}),
        'worker.volumes[0].name: there is a volume "shm" already',
    ),
    "a mount of no volume": (
        values(head={"volumeMounts": [{"name": "data", "mountPath": "/data"}]}),
        'head.volumeMounts[0].name: there is no volume "data"',
    ),
    "a mount on another": (
        values(worker={"volumeMounts": [{"name": "tmp", "mountPath": "/dev/shm"}]}),
        "worker.volumeMounts[0].mountPath: /dev/shm is taken already",
    ),
    "a container of Ray's": (
        values(worker={"initContainers": [{"name": "ray-worker", "image": "a"}]}),
        'worker.initContainers[0].name: there is a container "ray-worker" already',
    ),
    "a container of no image": (
        values(head={"initContainers": [{"name": "a"}]}),
        "head.initContainers[0].image: must be given",
    ),
    "less grace than a replica's drain": (
        values(variant(drain_timeout_s=300)),
        f"terminationGracePeriodSeconds: 150 s are not more than {VARIANT}.drain_timeout_s, 300",
    ),
    "less grace than a gateway's drain": (
        values(config={"gateway": {"drain_timeout_s": 150}}),
        "terminationGracePeriodSeconds: 150 s are not more than config.gateway.drain_timeout_s",
    ),
    "less grace than what drains by default": (
        values(terminationGracePeriodSeconds=120),
        "terminationGracePeriodSeconds: 120 s are not more than config.gateway.drain_timeout_s",
    ),
}

ACCESS: Cases = {
    "an ingress for no host": (values(ingress={"enabled": True}), "ingress.host: must be given"),
    "an ingress for one host twice": (
        values(ingress={"enabled": True, "host": "a.b", "grpc": {"host": "a.b"}}),
        "ingress.grpc.host: must differ from ingress.host",
    ),
    "two certificates": (
        values(
            ingress={"enabled": True, "host": "a", "tls": {"generate": True, "secretName": "b"}}
        ),
        "ingress.tls.generate: a Secret is given already",
    ),
    "a route from nowhere": (
        values(grpcRoute={"enabled": True}),
        "grpcRoute.parentRefs: must name a Gateway",
    ),
    "another route from nowhere": (
        values(httpRoute={"enabled": True}),
        "httpRoute.parentRefs: must name a Gateway",
    ),
    "two routes for a host": (
        values(
            grpcRoute={"enabled": True, "parentRefs": [{"name": "g"}]},
            httpRoute={"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["a.b"]},
        ),
        "httpRoute.hostnames: must differ from grpcRoute.hostnames",
    ),
    "a service with one port": (
        values(service={"grpcPort": 8000}),
        "service.httpPort: 8000 is also grpcPort",
    ),
    "a gateway with one port": (
        values(config={"gateway": {"grpc_port": 8000}}),
        "config.gateway.http_port: 8000 is also grpc_port",
    ),
    "a port of the dashboard": (
        values(config={"gateway": {"http_port": 8265}}),
        "config.gateway.http_port: 8265 is a port of Ray's own",
    ),
    "a port of Ray's workers": (
        values(config={"gateway": {"grpc_port": 12000}}),
        "config.gateway.grpc_port: 12000 is a port of Ray's own",
    ),
    "a gateway that nobody reaches": (
        values(config={"gateway": {"host": "127.0.0.1"}}),
        "config.gateway.host: nobody outside its pod reaches 127.0.0.1",
    ),
    "two files of keys": (
        values(config={"gateway": {"api_keys_file": "/keys"}}, apiKeys={"enabled": True}),
        "config.gateway.api_keys_file: apiKeys.enabled names the file already",
    ),
    "a file of keys beside no file": (
        values(config={"gateway": {"api_keys_file": "keys"}}),
        'config.gateway.api_keys_file: "keys" must begin with /',
    ),
    "keys that nobody asks for": (
        values(apiKeys={"existingSecret": "keys"}),
        "apiKeys.enabled: must be true where apiKeys.existingSecret is given",
    ),
    "peers that nothing keeps out": (
        values(networkPolicy={"from": [{"podSelector": {}}]}),
        "networkPolicy.enabled: must be true",
    ),
    "a Secret without an entry": (values(hubToken={"name": "hub"}), "hubToken.key: must be given"),
    "an entry without a Secret": (values(hubToken={"key": "a"}), "hubToken.name: must be given"),
    "headers for nobody": (
        values(otlp={"headersSecret": {"name": "a", "key": "b"}}),
        "otlp.endpoint: must be given",
    ),
    "headers without an entry": (
        values(otlp={"endpoint": "http://a", "headersSecret": {"name": "a"}}),
        "otlp.headersSecret.key: must be given",
    ),
    "a password for no Redis": (
        values(gcsFaultTolerance={"passwordSecret": {"name": "a", "key": "b"}}),
        "gcsFaultTolerance.redisAddress: must be given",
    ),
    "a Redis that is none": (
        values(gcsFaultTolerance={"redisAddress": "http://redis:6379"}),
        "/gcsFaultTolerance/redisAddress",
    ),
    "a folder that is relative": (
        values(modelCache={"type": "hostPath", "hostPath": "var/lib"}),
        "/modelCache/hostPath",
    ),
    "a folder that goes back": (
        values(modelCache={"type": "hostPath", "hostPath": "/var/../etc"}),
        "modelCache.hostPath: must have no ..",
    ),
    "a claim that nobody makes": (
        values(modelCache={"existingClaim": "models"}),
        "modelCache.type: must be persistentVolumeClaim where modelCache.existingClaim is given",
    ),
    "a class for no claim": (
        values(modelCache={"storageClassName": "fast"}),
        "modelCache.type: must be persistentVolumeClaim where modelCache.storageClassName",
    ),
    "a preload for one pod": (
        values(modelCache={"preload": True}),
        "modelCache.preload: needs a volume that all pods share",
    ),
    "a preload of nothing": (
        values(
            variant(checkpoint={"path": "/models/a"}),
            modelCache={"type": "persistentVolumeClaim", "preload": True},
        ),
        "modelCache.preload: no variant has a checkpoint from the hub",
    ),
}

# What the program refuses otherwise than by its sections; those are in test_program_refusals.py.
VARIANTS: Cases = {
    "no models": (values(config={"models": []}), "/config/models"),
    "no variants": (values(config={"models": [{"name": "m", "variants": []}]}), "0/variants"),
    "a checkpoint beside no file": (
        values(variant(checkpoint={"path": "models/a"})),
        f'{VARIANT}.checkpoint.path: "models/a" must begin with /',
    ),
    "a checkpoint of no repository": (
        values(variant(checkpoint={"hub": "https://huggingface.co/a/b"})),
        f"{VARIANT}.checkpoint.hub: ",
    ),
    "a manifest that is elsewhere": (
        values({"name": "v", "accelerator": "h100-sxm", "manifest": "small"}),
        f'{VARIANT}.checkpoint: must be given: the manifest "small" lies where it was built',
    ),
    "a profile that is elsewhere": (
        values(variant(profile_file="bf16.yaml")),
        f"{VARIANT}.profile_file: no pod has that file",
    ),
    "an option with a key of its own": (
        values(variant(engine_options={"max_model_len": 4096})),
        f"{VARIANT}.engine_options.max_model_len: use the variant's own key",
    ),
    "an option that is taken": (
        values(variant(engine_options={"scheduler_cls": "a.B"})),
        f"{VARIANT}.engine_options.scheduler_cls: it is set already",
    ),
    "an option that vLLM lacks": (
        values(variant(engine_options={"enable_prefix_cashing": True})),
        f"{VARIANT}.engine_options.enable_prefix_cashing: vLLM's AsyncEngineArgs has no such",
    ),
    "a file of GGUF for vLLM": (
        values(variant(engine="llamacpp", quantization="gguf")),
        f"{VARIANT}.quantization: the engine llamacpp does not read it",
    ),
}

KINDS = {
    "unknown key": UNKNOWN_KEYS,
    "type": TYPES,
    "choice": CHOICES,
    "amount": AMOUNTS,
    "name": NAMES,
    "place": PLACES,
    "pod": PODS,
    "access": ACCESS,
    "variant": VARIANTS,
}
BROKEN: Cases = {
    f"{kind}: {case}": given for kind, cases in KINDS.items() for case, given in cases.items()
}


def test_what_they_break_would_render(helm: Helm) -> None:
    assert not helm.template(values()).refusal
    assert not helm.template(values(cores(), groups=[CORES])).refusal


@pytest.mark.parametrize("case", BROKEN)
def test_broken_values_are_refused_with_their_key(helm: Helm, case: str) -> None:
    given, words = BROKEN[case]
    refusal = helm.template(given).refusal
    assert words in refusal, refusal


def test_all_that_is_wrong_is_told_at_once(helm: Helm) -> None:
    given = values(
        variant(tensor_parallel_size=16),
        service={"grpcPort": 8000},
        hubToken={"name": "hub"},
        terminationGracePeriodSeconds=1,
    )
    refusal = helm.template(given).refusal
    for key in ("tensor_parallel_size", "service.httpPort", "hubToken.key", "terminationGrace"):
        assert key in refusal


@pytest.mark.parametrize(
    ("api", "given", "words"),
    [
        (APIS[1], {"podMonitor": {"enabled": True}}, "podMonitor.enabled: this cluster has no"),
        (APIS[1], {"alertRules": {"enabled": True}}, "alertRules.enabled: this cluster has no"),
        (
            APIS[2],
            {"grpcRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}},
            "grpcRoute.enabled: this cluster has no Gateway API",
        ),
        (
            APIS[2],
            {"httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}},
            "httpRoute.enabled: this cluster has no Gateway API",
        ),
    ],
)
def test_what_a_cluster_lacks_is_refused(
    helm: Helm, api: str, given: dict[str, Any], words: str
) -> None:
    apis = tuple(each for each in APIS if each != api)
    assert not helm.template(values(**given)).refusal
    assert words in helm.template(values(**given), apis=apis).refusal


@pytest.mark.parametrize("release", ["1demo", "my.demo"])
def test_a_release_that_names_no_service_is_refused(helm: Helm, release: str) -> None:
    assert "fullnameOverride: must be given" in helm.template(values(), name=release).refusal
    assert not helm.template(values(fullnameOverride="demo"), name=release).refusal


def test_an_image_of_ones_own_may_know_other_options(helm: Helm) -> None:
    given = values(variant(engine_options={"new_in_vllm": True}), image={"tag": "mine"})
    assert not helm.template(given).refusal


def test_every_section_of_values_is_closed() -> None:
    """A misspelt key would else be overlooked, in whatever section comes to be."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    open_ones = [
        key
        for key, field in schema["properties"].items()
        if field.get("type") == "object" and "additionalProperties" not in field
    ]
    assert open_ones == ["global"]
