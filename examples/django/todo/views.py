import json

from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404

from .models import Todo


def as_json(todo):
    return {'id': todo.id, 'task': todo.task, 'isCompleted': todo.is_completed}


def todos(request):
    if request.method == 'POST':
        body = json.loads(request.body)
        todo = Todo.objects.create(task=body['task'], is_completed=body.get('isCompleted', False))
        return JsonResponse(as_json(todo), status=201)
    return JsonResponse([as_json(todo) for todo in Todo.objects.order_by('id')], safe=False)


def complete(request):
    todo = get_object_or_404(Todo, pk=json.loads(request.body)['id'])
    todo.is_completed = True
    todo.save()
    return JsonResponse(as_json(todo))


def remove(request, pk):
    get_object_or_404(Todo, pk=pk).delete()
    return HttpResponse(status=204)
