import { EntitySchema } from '@mikro-orm/core';

export class Todo {}

new EntitySchema({
  class: Todo,
  tableName: 'todo',
  properties: {
    id: { type: 'number', primary: true },
    task: { type: 'text' },
    isCompleted: { type: 'boolean', default: false },
  },
});
