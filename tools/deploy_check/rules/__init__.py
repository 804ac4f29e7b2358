"""What the manifests have to keep, one function a rule."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from deploy_check.manifests import Manifests
from deploy_check.mistakes import Mistake
from deploy_check.rules import monitoring, network, objects, pods, program, scaling, secrets, selectors, transport

Rule = Callable[[Manifests], Iterable[Mistake]]

RULES: tuple[Rule, ...] = (
    *(objects.fits_the_kubernetes_schema, objects.names_are_valid_and_used_once, objects.namespaces_agree),
    *(objects.references_exist, objects.config_maps_are_small_enough),
    *(selectors.selectors_find_their_pods, selectors.ports_are_named, selectors.ports_lead_to_containers),
    *(pods.mounts_have_their_volumes, pods.environment_has_no_duplicates, pods.variables_are_known_when_used),
    *(pods.pods_are_restricted, pods.memory_is_reserved_in_full, pods.images_name_a_release),
    *(pods.service_links_are_off, pods.accounts_are_their_own, pods.watched_files_are_no_subpaths),
    *(secrets.no_secret_is_applied, secrets.secrets_are_files_of_the_group, secrets.each_pod_gets_what_it_needs),
    *(program.settings_load, program.command_lines_parse, program.server_listens_where_its_ports_are),
    *(program.probes_ask_the_health_of_the_program, program.shutdown_fits_the_grace_period),
    *(program.readiness_is_noticed_while_draining, program.named_files_are_mounted, program.watchlists_load),
    *(program.engine_has_its_cpus,),
    *(transport.plaintext_is_on_purpose, transport.redis_is_reached, transport.certificates_name_the_services),
    *(network.everything_is_denied_first, network.policies_open_only_what_is_needed, network.routes_lead_to_services),
    *(scaling.autoscalers_own_the_number, scaling.queries_ask_for_their_namespace, scaling.disruptions_are_bounded),
    *(monitoring.metrics_are_exported, monitoring.scrapes_speak_as_the_server_does),
)


def mistakes(manifests: Manifests) -> list[Mistake]:
    """Everything that is wrong with manifests, as far as the rules see it.

    Objects that do not even have the form that Kubernetes wants are named alone: other rules could not read them.
    """
    first, *others = RULES
    return _found(first, manifests) or [found for rule in others for found in _found(rule, manifests)]


def _found(rule: Rule, manifests: Manifests) -> list[Mistake]:
    return [replace(found, rule=rule.__name__) for found in rule(manifests)]
