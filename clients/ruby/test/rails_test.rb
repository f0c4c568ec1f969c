# frozen_string_literal: true

# What an application of Rails configures, in a copy of the example. Each application needs a process of its own.

require_relative 'base'
require 'fileutils'
require 'rbconfig'
require 'tmpdir'

class RailsTest < Minitest::Test
  EXAMPLE = File.join(__dir__, 'example')
  SETTING = /^    config\.bemi\.context = .*?^    end\n/m.freeze

  # What the application prints, with these lines in its configuration and in an initializer.
  def application(configuration, initializer, code)
    Dir.mktmpdir do |directory|
      FileUtils.cp_r("#{EXAMPLE}/.", directory)
      file = File.join(directory, 'config/application.rb')
      text = File.read(file)
      assert_match(SETTING, text)
      File.write(file, text.sub(SETTING) { configuration })
      FileUtils.mkdir_p(File.join(directory, 'config/initializers'))
      File.write(File.join(directory, 'config/initializers/audit.rb'), initializer)
      IO.popen([{ 'RAILS_ENV' => 'production' }, RbConfig.ruby, '-e', "require './config/environment'; #{code}", { chdir: directory }], &:readlines).map(&:chomp)
    end
  end

  OTHER = "class Other; def initialize(app) = @app = app; end; Rails.application.config.middleware.use(Other)\n"
  MIDDLEWARES = 'puts Rails.application.middleware.map(&:klass)'

  def test_the_middleware_is_the_last_one
    setting = 'config.bemi.context = ->(request) { { path: request.path } }'
    assert_equal('Bemi::Middleware', application(setting, OTHER, MIDDLEWARES).last)
    assert_equal('Bemi::Middleware', application('', "Rails.application.#{setting}\n#{OTHER}", MIDDLEWARES).last)
    refute_includes(application('', '', MIDDLEWARES), 'Bemi::Middleware')
  end

  # From Rails 7 on. No transformer can add a statement behind the context.
  def test_the_transformer_is_the_last_one
    code = 'ActiveRecord::Base; puts ActiveRecord.respond_to?(:query_transformers) ? ActiveRecord.query_transformers : "none"'
    found = application('config.active_record.query_log_tags_enabled = true if ActiveRecord.respond_to?(:query_transformers)', '', code)
    assert_equal([found == ['none'] ? 'none' : 'Bemi::ActiveRecord::Transformer'], found.last(1))
    assert_includes([['none'], ['ActiveRecord::QueryLogs', 'Bemi::ActiveRecord::Transformer']], found)
  end

  def test_the_log_is_that_of_rails
    assert_equal(['true'], application('', '', 'puts Bemi.logger.equal?(Rails.logger)'))
  end
end
