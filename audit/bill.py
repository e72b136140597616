"""A CycloneDX bill of materials of what runs in production."""

from collections.abc import Iterable

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from audit.locks import Pin
from consumer import __version__


def bill(pins: Iterable[Pin]) -> str:
    """
    Return the bill as CycloneDX 1.6 JSON.

    The hashes of a component are those of all its files that the lock allows. A package that only
    other platforms need is optional.
    """
    bom = Bom()
    root = Component(name="fraudstream", version=__version__, type=ComponentType.APPLICATION)
    bom.metadata.component = root
    components = [_component(pin) for pin in pins]
    for component in components:
        bom.components.add(component)
    bom.register_dependency(root, components)
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _component(pin: Pin) -> Component:
    url = PackageURL("pypi", name=pin.name, version=pin.version)
    return Component(
        type=ComponentType.LIBRARY,
        name=pin.name,
        version=pin.version,
        bom_ref=str(url),
        purl=url,
        scope=ComponentScope.OPTIONAL if pin.marker else ComponentScope.REQUIRED,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in pin.sha256],
        licenses=[DisjunctiveLicense(name=pin.licence)] if pin.licence else [],
    )
