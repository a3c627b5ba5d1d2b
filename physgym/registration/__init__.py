"""Registration: bring an object that is known into another recording of it.

`register` (and `Twin.register`) finds where the nodes of a twin are in the first cloud of another
recording: rigidly (`register_rigid`) or in another shape (`register_shape`).
"""

from physgym.registration.register import Registration, RegistrationWarning, register
from physgym.registration.rigid import RigidFit, register_rigid
from physgym.registration.shape import ShapeFit, register_shape

__all__ = [
    "Registration",
    "RegistrationWarning",
    "RigidFit",
    "ShapeFit",
    "register",
    "register_rigid",
    "register_shape",
]
