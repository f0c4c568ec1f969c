"""SQLAlchemy with psycopg2 and with asyncpg: the ORM and the Core."""

import asyncio
import functools
import io
import unittest
from contextlib import contextmanager

import sqlalchemy as sa
from base import DATABASE, HOST, USER, DatabaseTest, marked, url
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session, declarative_base
from sqlalchemy.pool import NullPool
from stack import StackTest, passed

import bemi
from bemi.sqlalchemy import hook

try:
    import asyncpg
    import sqlalchemy.ext.asyncio
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
except ImportError:
    asyncpg = None

Base = declarative_base()


class Todo(Base):
    __tablename__ = 'todo'
    id = sa.Column(sa.Integer, primary_key=True)
    task = sa.Column(sa.Text)
    done = sa.Column(sa.Boolean, server_default='false', nullable=False)


todo = Todo.__table__


class SQLAlchemyTest(StackTest):
    stack, version = 'SQLAlchemy, psycopg2', sa.__version__
    scheme = 'postgresql+psycopg2'

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.engine = cls.make_engine()
        cls.addClassCleanup(cls.engine.dispose)

    @classmethod
    def make_engine(cls, pooled=False, **options):
        engine = sa.create_engine(url(cls.scheme, pooled=pooled), **options)
        hook(engine)
        hook(engine)
        return engine

    def connect(self, pooled=False):
        engine = self.make_engine(pooled=True, poolclass=NullPool) if pooled else self.engine
        return engine.connect().execution_options(isolation_level='AUTOCOMMIT')

    def close(self, db):
        db.close()

    def insert(self, db, task):
        db.execute(todo.insert().values(task=task))

    @contextmanager
    def transaction(self, db):
        engine = db.engine
        with engine.connect().execution_options(isolation_level='READ COMMITTED') as connection, connection.begin():
            # The methods above write with it.
            original, db.execute = db.execute, connection.execute
            original_nested, db.begin_nested = db.begin_nested, connection.begin_nested
            try:
                yield
            finally:
                db.execute, db.begin_nested = original, original_nested

    def savepoint(self, db):
        return db.begin_nested()

    def orm(self, db, tasks):
        with Session(db.engine) as session:
            session.add_all([Todo(task=task) for task in tasks])
            session.commit()
            for row in session.query(Todo).filter(Todo.task.in_(tasks)):
                row.done = True
            session.commit()
            session.delete(session.query(Todo).filter_by(task=tasks[0]).one())
            session.commit()

    def bulk(self, db, tasks):
        with Session(db.engine) as session:
            session.bulk_save_objects([Todo(task=task) for task in tasks])
            session.query(Todo).filter(Todo.task.in_(tasks)).update({'done': True}, synchronize_session=False)
            session.query(Todo).filter(Todo.task.in_(tasks)).delete(synchronize_session=False)
            session.commit()

    def executemany(self, db, tasks):
        db.execute(todo.insert(), [{'task': task} for task in tasks])
        db.execute(todo.update().where(todo.c.task == sa.bindparam('b')).values(done=True), [{'b': task} for task in tasks])

    def multi_values(self, db, tasks):
        db.execute(todo.insert().values([{'task': task} for task in tasks]).returning(todo.c.id)).fetchall()

    def upserts(self, db, tasks):
        for _ in range(2):
            db.execute(upsert(todo).values(task=tasks[0]).on_conflict_do_update(index_elements=['task'], set_={'done': True}))

    def texts(self, db, tasks):
        db.execute(sa.text('INSERT INTO todo (task) VALUES (:task)'), {'task': tasks[0]})
        db.exec_driver_sql('INSERT INTO todo (task) VALUES (%s)', (tasks[1],))

    def cte(self, db, tasks):
        new = todo.insert().values(task=tasks[0]).returning(todo.c.task).cte('new')
        self.assertEqual(db.execute(sa.select(new.c.task)).scalar(), tasks[0])

    ways = {
        'ORM': (7, orm), 'bulk operations': (9, bulk), 'executemany': (6, executemany), 'several rows with RETURNING': (3, multi_values),
        'upsert': (2, upserts), 'text()': (2, texts), 'INSERT in WITH': (1, cte),
    }

    def test_compiled_cache(self):
        """A statement is compiled once and sent with each context."""
        statement = todo.insert().values(task=sa.bindparam('name'))
        with self.connected() as db:
            for i in range(10):
                with bemi.with_context({'i': i} if i % 3 else None):
                    db.execute(statement, {'name': f'cached {i}'})
        for task, context in marked('cached'):
            i = int(task.split(' ')[1])
            self.assertEqual(context, {'i': i} if i % 3 else {})

    def copy(self, connection, task):
        with connection.cursor() as cursor:
            cursor.copy_expert('COPY todo (task) FROM STDIN', io.StringIO(f'{task}\n'))

    def test_cursors_of_the_driver(self):
        connection = self.engine.raw_connection()
        with bemi.with_context({'a': 1}):
            self.copy(connection, 'own 1')
            connection.cursor().execute('INSERT INTO todo (task) VALUES (%s)', ['own 2'])
        connection.commit()
        connection.close()
        self.assertEqual(marked('own'), [('own 1', {'a': 1}), ('own 2', {'a': 1})])

    def test_cursors_that_a_function_makes(self):
        """They stay, and what SQLAlchemy sends with them has the context."""
        driver = self.engine.dialect.dbapi
        factory = functools.partial(getattr(driver, 'Cursor', None) or driver.extensions.cursor)
        engine = self.make_engine(connect_args={'cursor_factory': factory})
        self.addCleanup(engine.dispose)
        with bemi.with_context({'a': 1}), engine.begin() as connection:
            connection.execute(todo.insert().values(task='made 1'))
            self.assertIs(connection.connection.driver_connection.cursor_factory, factory)
        self.assertEqual(marked('made'), [('made 1', {'a': 1})])

    def test_all_engines(self):
        hook()
        engine = sa.create_engine(url('postgresql+psycopg2'))
        self.addCleanup(engine.dispose)
        with bemi.with_context({'a': 1}), engine.begin() as connection:
            connection.execute(todo.insert().values(task='all 1'))
        self.assertEqual(marked('all'), [('all 1', {'a': 1})])

    def test_other_databases(self):
        """Their statements stay as they are."""
        engine = sa.create_engine('sqlite://')
        hook(engine)
        seen = []
        sa.event.listen(engine, 'before_cursor_execute', lambda connection, cursor, statement, *rest: seen.append(statement))
        with bemi.with_context({'a': 1}), engine.begin() as connection:
            connection.execute(sa.text('create table t (a int)'))
            connection.execute(sa.text('insert into t values (1)'))
        self.assertEqual(seen[-1], 'insert into t values (1)')


@unittest.skipIf(sa.__version__.startswith('1.'), 'SQLAlchemy 1 has no psycopg 3')
class SQLAlchemyPsycopgTest(SQLAlchemyTest):
    stack = 'SQLAlchemy, psycopg 3'
    scheme = 'postgresql+psycopg'

    @classmethod
    def make_engine(cls, pooled=False, **options):
        # PgBouncer before 1.21 knows no prepared statements.
        return super().make_engine(pooled, **options, **({'connect_args': {'prepare_threshold': None}} if pooled else {}))

    def copy(self, connection, task):
        with connection.cursor() as cursor, cursor.copy('COPY todo (task) FROM STDIN') as copy:
            copy.write_row([task])

    def test_asyncio(self):
        async def work(engine, i):
            for j in range(5):
                with bemi.with_context({'i': i, 'j': j}):
                    async with engine.begin() as connection:
                        await connection.execute(todo.insert(), [{'task': f'async {i} {j} {letter}'} for letter in 'ab'])
                async with engine.begin() as connection:
                    await connection.execute(todo.insert().values(task=f'async none {i} {j}'))

        async def main():
            engine = sa.ext.asyncio.create_async_engine(url(self.scheme), pool_size=4)
            hook(engine)
            await asyncio.gather(*(work(engine, i) for i in range(10)))
            await engine.dispose()

        asyncio.run(main())
        found = marked('async')
        self.assertEqual(len(found), 10 * 5 * 3)
        for task, context in found:
            _, i, j, *_ = task.split(' ')
            self.assertEqual(context, {} if i == 'none' else {'i': int(i), 'j': int(j)}, task)
        self.feature('asyncio')

    def test_prepared_statements(self):
        """Texts with a context leave nothing on the server."""
        with self.connected() as db:
            for i in range(20):
                with bemi.with_context({'i': i // 10}):
                    self.insert(db, f'prepared {i}')
                    db.execute(todo.insert(), [{'task': f'prepared many {i} {j}'} for j in range(2)])
            found = db.execute(sa.text("SELECT count(*) FROM pg_prepared_statements WHERE statement ILIKE 'insert%'"))
            self.assertEqual(found.scalar(), 0)
        found = marked('prepared')
        self.assertEqual(len(found), 60)
        for task, context in found:
            self.assertEqual(context, {'i': int(task.replace('many ', '').split(' ')[1]) // 10}, task)
        self.feature('prepared statements')


@unittest.skipUnless(asyncpg, 'asyncpg is not installed')
class AsyncpgTest(DatabaseTest):
    def test_asyncio(self):
        async def work(engine, i):
            for j in range(5):
                with bemi.with_context({'i': i, 'j': j}):
                    async with AsyncSession(engine) as session:
                        session.add(Todo(task=f'asyncpg {i} {j} a'))
                        await session.flush()
                        session.add_all([Todo(task=f'asyncpg {i} {j} b'), Todo(task=f'asyncpg {i} {j} c')])
                        await session.commit()
                async with engine.begin() as connection:
                    await connection.execute(todo.insert().values(task=f'asyncpg none {i} {j}'))

        async def prepared(engine):
            async with engine.begin() as connection:
                for i in range(150):
                    with bemi.with_context({'i': i}):
                        await connection.execute(todo.insert().values(task=f'full {i}'))
                return (await connection.execute(sa.text('SELECT count(*) FROM pg_prepared_statements'))).scalar()

        async def main():
            server = {'host': HOST, 'user': USER, 'database': DATABASE}
            engine = create_async_engine('postgresql+asyncpg://', connect_args=server, pool_size=4)
            hook(engine)
            try:
                await asyncio.gather(*(work(engine, i) for i in range(10)))
                return await prepared(engine)
            finally:
                await engine.dispose()

        # asyncpg and SQLAlchemy each keep at most 100 texts of a connection.
        self.assertLess(asyncio.run(main()), 250)
        found = marked('asyncpg')
        self.assertEqual(len(found), 10 * 5 * 4)
        for task, context in found:
            _, i, j, *_ = task.split(' ')
            self.assertEqual(context, {} if i == 'none' else {'i': int(i), 'j': int(j)}, task)
        passed('SQLAlchemy, asyncpg', sa.__version__, 'asyncio')
        passed('SQLAlchemy, asyncpg', sa.__version__, 'context by itself')


del StackTest
