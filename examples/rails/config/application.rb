require 'logger'
require 'rails'
require 'active_record/railtie'
require 'action_controller/railtie'
require 'bemi'
require_relative '../app/middleware/find_user'

module TodoApp
  class Application < Rails::Application
    config.root = File.expand_path('..', __dir__)
    config.load_defaults 6.1
    config.api_only = true
    config.eager_load = false
    config.secret_key_base = 'only for an example'
    config.log_level = :warn
    config.active_record.dump_schema_after_migration = false

    config.middleware.use FindUser
    config.bemi.context = lambda do |request|
      { endpoint: request.path, params: request.request_parameters, userId: request.env['user_id'] }
    end
  end
end
