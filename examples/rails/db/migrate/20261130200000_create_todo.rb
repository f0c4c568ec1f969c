class CreateTodo < ActiveRecord::Migration[6.1]
  def change
    create_table :todo, id: :serial do |t|
      t.text :task, null: false
      t.boolean :isCompleted, null: false, default: false
    end
  end
end
