// The copies of a driver that an application uses. With several versions of it in node_modules, or with pnpm, an ORM can
// have another copy than the application.
//
// A copy is found from the folders in which it is asked for: of the application, of this package, and of the ORMs that
// are found from there. Copies that are loaded already are found wherever they are.

'use strict';

const { existsSync, realpathSync } = require('node:fs');
const { createRequire } = require('node:module');
const { dirname, isAbsolute, join, sep } = require('node:path');

// What depends on a driver, so that the application does not need to.
const CARRIERS = [
  '@mikro-orm/postgresql', '@mikro-orm/sql', '@mikro-orm/knex', 'knex', 'objection', '@prisma/adapter-pg', 'typeorm', 'sequelize',
  '@sequelize/postgres', 'drizzle-orm', 'kysely', 'pg-promise', 'pg-boss', 'graphile-worker',
];

// Names of files, of which only the folders matter.
const startFiles = () =>
  [join(process.cwd(), 'package.json'), require.main?.filename, process.argv[1], __filename].filter(file => file && isAbsolute(file));

// The folder of a package. Not by require.resolve(), because a package need not export anything to CommonJS.
function folderOf(name, from) {
  for (let folder = dirname(from); ; folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules', name);
    if (existsSync(join(candidate, 'package.json'))) return realpathSync(candidate);
    if (folder === dirname(folder)) return undefined;
  }
}

function carrierFiles(files) {
  const found = new Set(files);
  for (const file of found) {
    for (const name of CARRIERS) {
      const folder = folderOf(name, file);
      // The carriers of a carrier are looked at, too: MikroORM has knex.
      if (folder) found.add(join(folder, 'package.json'));
    }
  }
  return [...found];
}

function required(name, file) {
  try {
    return createRequire(file)(name);
  } catch {
    // It is not there, or cannot be loaded. The application would notice.
    return undefined;
  }
}

const loaded = name =>
  Object.entries(require.cache ?? {})
    .filter(([file]) => file.endsWith(join(sep, 'node_modules', name, 'lib', 'index.js')))
    .map(([, { exports }]) => exports);

const copiesOf = name =>
  [...new Set([...carrierFiles(startFiles()).map(file => required(name, file)), ...loaded(name)])].filter(Boolean);

module.exports = { copiesOf };
