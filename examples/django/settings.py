import os

INSTALLED_APPS = ['bemi.django', 'todo']

MIDDLEWARE = [
    'todo.users.find_user',
    'bemi.django.context_middleware',
]

BEMI_CONTEXT = 'todo.audit.context'

DATABASES = {
    'default': {
        'ENGINE': 'django.db.backends.postgresql',
        'NAME': os.environ.get('PGDATABASE', 'todo'),
        'HOST': os.environ.get('PGHOST', ''),
        'USER': os.environ.get('PGUSER', ''),
    },
}

ROOT_URLCONF = 'todo.urls'
DEFAULT_AUTO_FIELD = 'django.db.models.AutoField'
USE_TZ = True
DEBUG = True
SECRET_KEY = 'only for an example'
