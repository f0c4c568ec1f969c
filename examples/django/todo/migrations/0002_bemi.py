from django.db import migrations


class Migration(migrations.Migration):
    atomic = False                            # CALL commits
    dependencies = [('todo', '0001_initial')]

    operations = [
        migrations.RunSQL(['CREATE EXTENSION bemi'], migrations.RunSQL.noop),
        migrations.RunSQL(["SELECT bemi.track('todo')"], ["SELECT bemi.untrack('todo')"]),
        migrations.RunSQL(['CALL bemi.start()'], migrations.RunSQL.noop),
    ]
