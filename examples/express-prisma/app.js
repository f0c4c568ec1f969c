import { setContext } from 'bemi';
import 'bemi/pg';
import { PrismaPg } from '@prisma/adapter-pg';
import express from 'express';
import { PrismaClient } from './generated/client.ts';

export const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: process.env.DATABASE_URL }) });

export const app = express();

app.use(express.json());

// A real application reads the user from the session. Here each request names its user.
app.use((req, res, next) => {
  req.user = { id: Number(req.get('X-User') ?? 187234) };
  next();
});

app.use(setContext(req => ({ endpoint: req.url, params: req.body, userId: req.user?.id })));

app.get('/todo', async (req, res) => {
  res.json(await prisma.todo.findMany({ orderBy: { id: 'asc' } }));
});

app.post('/todo', async (req, res) => {
  const { task, isCompleted } = req.body;
  res.status(201).json(await prisma.todo.create({ data: { task, isCompleted } }));
});

app.put('/todo/complete', async (req, res) => {
  res.json(await prisma.todo.update({ where: { id: Number(req.body.id) }, data: { isCompleted: true } }));
});

app.delete('/todo/:id', async (req, res) => {
  await prisma.todo.delete({ where: { id: Number(req.params.id) } });
  res.sendStatus(204);
});
