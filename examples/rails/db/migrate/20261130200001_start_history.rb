class StartHistory < ActiveRecord::Migration[6.1]
  disable_ddl_transaction!                    # CALL commits

  def up
    execute 'CREATE EXTENSION bemi'
    execute "SELECT bemi.track('todo')"
    execute 'CALL bemi.start()'
  end

  def down
    execute "SELECT bemi.untrack('todo')"
  end
end
