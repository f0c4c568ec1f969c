# frozen_string_literal: true

module Bemi
  # Rails: hooks ActiveRecord and ActiveJob, and sets the context of each request, if the application has
  #
  #   config.bemi.context = ->(request) { { endpoint: request.path, userId: request.session[:user_id] } }
  class Railtie < ::Rails::Railtie
    config.bemi = ActiveSupport::OrderedOptions.new

    # Behind the application's initializers, which can have the setting, and middlewares.
    initializer 'bemi.middleware', after: :load_config_initializers do |app|
      callback = app.config.bemi.context
      # The last one, so that all that find the user are before it.
      app.config.middleware.use(Bemi::Middleware, &callback) if callback
    end

    initializer 'bemi.hooks' do
      ActiveSupport.on_load(:active_record) do
        require 'bemi/active_record'
      rescue LoadError
        # Without the gem pg, there is nothing to hook.
      end
      ActiveSupport.on_load(:active_job) { require 'bemi/active_job' }
    end

    config.after_initialize do
      Bemi.logger = ::Rails.logger
      # Rails has added its own transformers now.
      Bemi::ActiveRecord.hook if Bemi.const_defined?(:ActiveRecord, false)
    end
  end
end
