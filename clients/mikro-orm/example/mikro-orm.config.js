import { Migrator } from '@mikro-orm/migrations';
import { defineConfig, EntityCaseNamingStrategy } from '@mikro-orm/postgresql';
import { Change } from 'bemi-mikro-orm';
import { Todo } from './src/todo.js';

export default defineConfig({
  host: process.env.PGHOST,
  user: process.env.PGUSER,
  password: process.env.PGPASSWORD,
  dbName: process.env.PGDATABASE ?? 'todo',
  entities: [Todo, Change],
  // The page's columns are named as its properties are.
  namingStrategy: EntityCaseNamingStrategy,
  baseDir: import.meta.dirname,
  extensions: [Migrator],
  migrations: { path: './src/migrations' },
  // If MikroORM compares the database with the entities, it must leave out what bemi has created:
  schemaGenerator: { ignoreSchema: ['bemi', '_bemi'], ignoreTriggers: true },
});
