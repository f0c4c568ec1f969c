from django.urls import path
from django.views.decorators.http import require_http_methods

from . import views

urlpatterns = [
    path('todo', require_http_methods(['GET', 'POST'])(views.todos)),
    path('todo/complete', require_http_methods(['PUT'])(views.complete)),
    path('todo/<int:pk>', require_http_methods(['DELETE'])(views.remove)),
]
