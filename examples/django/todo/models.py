from django.db import models


class Todo(models.Model):
    task = models.TextField()
    is_completed = models.BooleanField(default=False, db_column='isCompleted')

    class Meta:
        db_table = 'todo'
