"""What can be known of a configuration before anything starts."""

from dicom_node.catalogue import ModelDescription, catalogue
from dicom_node.errors import ConfigurationError
from dicom_node.settings import Settings
from dicom_node.web.listen import check_web


def check(settings: Settings) -> dict[str, ModelDescription]:
    """What can be known before anything starts: the catalogue reads, and routes name known models.

    Raises:
        ConfigurationError: a route names a model that there is not, or that is off.
        BundleRefused: a model's description is wrong.
    """
    check_web(settings.web)
    models = catalogue(settings.models_dir)
    wanted = [(f"route {one.name!r}", one.models) for one in settings.route]
    for who, names in [*wanted, ("the canary", settings.canary.models)]:
        for name in names:
            if name not in models:
                known = ", ".join(models) or "none"
                raise ConfigurationError(f"{who} runs {name!r}, which is no model (known: {known})")
    return models


def check_all(settings: Settings) -> dict[str, ModelDescription]:
    """As `check`, and what a listener would refuse: access rules and certificates."""
    from dicom_node.receive.admit import AccessRules
    from dicom_node.receive.tls import server_context

    AccessRules.of(settings)
    if settings.receive.tls is not None:
        server_context(settings.receive.tls)
    return check(settings)
