import { Migration } from '@mikro-orm/migrations';

export class Migration20231211170000_todo extends Migration {
  async up() {
    this.addSql(`
      CREATE TABLE todo (
        id serial PRIMARY KEY,
        task text NOT NULL,
        "isCompleted" boolean NOT NULL DEFAULT false
      )
    `);
    // As if 25 rows had been there before, so that the ids are those of the page.
    this.addSql("SELECT setval('todo_id_seq', 25)");
  }

  async down() {
    this.addSql('DROP TABLE todo');
  }
}
