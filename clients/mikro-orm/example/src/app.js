import { RequestContext } from '@mikro-orm/core';
import { setContext } from 'bemi-mikro-orm';
import express from 'express';
import { changesPage } from './changes-page.js';
import { Todo } from './todo.js';

// A real application reads the user from the session. Here each request names its user.
function signIn(req, res, next) {
  req.user = { id: Number(req.get('X-User') ?? 187234) };
  next();
}

export function makeApp(orm) {
  const app = express();
  app.use(express.json());
  app.use(signIn);
  app.use(
    setContext(req => ({
      endpoint: req.url,
      params: req.body,
      userId: req.user?.id,
    })),
  );
  app.use((req, res, next) => RequestContext.create(orm.em, next));

  const em = () => RequestContext.getEntityManager();

  app.get('/', (req, res) => res.redirect('/changes'));

  app.get('/todo', async (req, res) => {
    res.json(await em().find(Todo, {}, { orderBy: { id: 'asc' } }));
  });

  app.post('/todo', async (req, res) => {
    const { task, isCompleted = false } = req.body;
    const todo = em().create(Todo, { task, isCompleted });
    await em().flush();
    res.status(201).json(todo);
  });

  app.put('/todo/complete', async (req, res) => {
    const todo = await em().findOneOrFail(Todo, { id: Number(req.body.id) });
    todo.isCompleted = true;
    await em().flush();
    res.json(todo);
  });

  app.delete('/todo/:id', async (req, res) => {
    const todo = await em().findOneOrFail(Todo, { id: Number(req.params.id) });
    em().remove(todo);
    await em().flush();
    res.sendStatus(204);
  });

  app.get('/changes', changesPage(em));

  return app;
}
