"""Django: a middleware sets the context of each request, and the queries of all its connections get it.

    INSTALLED_APPS = [..., 'bemi.django']
    MIDDLEWARE = [..., 'django.contrib.auth.middleware.AuthenticationMiddleware', 'bemi.django.context_middleware']
    BEMI_CONTEXT = 'shop.audit.context'          # a function of the request, or its path
"""

from .middleware import context_middleware

__all__ = ['context_middleware']
