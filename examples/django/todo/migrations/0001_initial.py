from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    operations = [
        migrations.CreateModel(
            name='Todo',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('task', models.TextField()),
                ('is_completed', models.BooleanField(db_column='isCompleted', default=False)),
            ],
            options={'db_table': 'todo'},
        ),
    ]
