#!/usr/bin/env node
//
// npx bemi migration:create --path src/migrations

'use strict';

const { existsSync, readdirSync, readFileSync, statSync, writeFileSync } = require('node:fs');
const { dirname, join, resolve } = require('node:path');
const { parseArgs } = require('node:util');
const { migrationText } = require('../src/migration.js');

const USAGE = `Usage: bemi migration:create --path FOLDER [OPTION...]

Writes a MikroORM migration that makes the extension bemi, tracks the application's
tables and starts reading their changes; its down() takes that back, but for the history.

  --path FOLDER     folder of the migrations, such as src/migrations
  --schema NAME     schema of the tables to track (default: public)
  --table NAME      MikroORM's table of migrations, which is not tracked
                    (default: mikro_orm_migrations)
  --format FORMAT   ts, esm or cjs (default: what the project uses)
  --help            print this text`;

class UserError extends Error {}

function readOptions() {
  let parsed;
  try {
    parsed = parseArgs({
      allowPositionals: true,
      options: {
        path: { type: 'string' },
        schema: { type: 'string', default: 'public' },
        table: { type: 'string', default: 'mikro_orm_migrations' },
        format: { type: 'string' },
        help: { type: 'boolean' },
      },
    });
  } catch (error) {
    throw new UserError(`${error.message}\n\n${USAGE}`);
  }
  const { values, positionals } = parsed;
  if (values.help) return { help: true };
  if (positionals.length !== 1 || positionals[0] !== 'migration:create') {
    throw new UserError(positionals.length === 0 ? USAGE : `unknown command: ${positionals.join(' ')}\n\n${USAGE}`);
  }
  if (!values.path) throw new UserError('say where the migrations are: --path src/migrations');
  if (values.format !== undefined && !['ts', 'esm', 'cjs'].includes(values.format)) {
    throw new UserError(`unknown format "${values.format}": it is ts, esm or cjs`);
  }
  return values;
}

// The nearest directory, from this one upwards, that has such a file.
function findUp(directory, file) {
  for (let parent = resolve(directory); ; parent = dirname(parent)) {
    const path = join(parent, file);
    if (existsSync(path)) return path;
    if (parent === dirname(parent)) return undefined;
  }
}

// What the project uses. Existing migrations show it best.
function formatOf(manifest, folder, files) {
  const extensions = files.map(file => /(?<!\.d)\.(ts|js|cjs)$/.exec(file)?.[1]);
  if (extensions.includes('ts')) return 'ts';
  if (extensions.includes('cjs')) return 'cjs';
  if (!extensions.includes('js')) {
    const tsconfig = findUp(folder, 'tsconfig.json');
    // A file above the project belongs to another one.
    if (tsconfig && (!manifest || dirname(tsconfig).startsWith(dirname(manifest)))) return 'ts';
  }
  return isModule(manifest) ? 'esm' : 'cjs';
}

function isModule(manifest) {
  if (manifest === undefined) return false;
  try {
    return JSON.parse(readFileSync(manifest, 'utf8')).type === 'module';
  } catch (error) {
    throw new UserError(`${manifest} cannot be read: ${error.message}`);
  }
}

function create({ path, schema, table, format }) {
  const folder = statSync(path, { throwIfNoEntry: false });
  if (!folder) throw new UserError(`the folder ${path} does not exist: make it, or correct --path`);
  if (!folder.isDirectory()) throw new UserError(`${path} is not a folder`);

  const files = readdirSync(path);
  const present = files.find(file => /_bemi\.(ts|js|cjs)$/.test(file));
  if (present) {
    throw new UserError(`${join(path, present)} is there already; to track another table, add to the migration that makes it:
  this.addSql("SELECT bemi.track('the_table')");`);
  }

  const timestamp = new Date().toISOString().replace(/[-T:]|\.\d{3}Z$/g, '');
  const className = `Migration${timestamp}_bemi`;
  const manifest = findUp(path, 'package.json');
  format ??= formatOf(manifest, path, files);
  const extension = format === 'cjs' && isModule(manifest) ? 'cjs' : format === 'ts' ? 'ts' : 'js';
  const file = join(path, `${className}.${extension}`);
  writeFileSync(file, migrationText({ className, format, schema, migrationsTable: table }), { flag: 'wx' });
  return file;
}

// MikroORM 7 has one command for all projects.
const commandOf = ({ path }) => (findUp(path, 'node_modules/.bin/mikro-orm-esm') ? 'mikro-orm-esm' : 'mikro-orm');

try {
  const options = readOptions();
  console.log(options.help ? USAGE : `${create(options)} is written. Run it: npx ${commandOf(options)} migration:up`);
} catch (error) {
  const reason = { EACCES: 'may not be written', EPERM: 'may not be written', EROFS: 'is on a read-only file system' }[error.code];
  if (!(error instanceof UserError) && !error.code) throw error;
  console.error(`bemi: ${reason ? `${error.path} ${reason}` : error.message}`);
  process.exitCode = 1;
}
