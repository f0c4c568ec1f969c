class Todo < ActiveRecord::Base
  self.table_name = 'todo'
end
