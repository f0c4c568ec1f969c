import json


def context(request):
    return {'endpoint': request.path, 'params': json.loads(request.body or '{}'), 'userId': request.user_id}
