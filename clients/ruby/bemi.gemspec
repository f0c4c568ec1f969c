# frozen_string_literal: true

require_relative 'lib/bemi/version'

Gem::Specification.new do |spec|
  spec.name = 'bemi'
  spec.version = Bemi::VERSION
  spec.authors = ['The bemi maintainers']
  spec.summary = "Passes the application's context to bemi, the PostgreSQL extension that keeps the history of every row"
  spec.description = 'The user, the endpoint and the parameters of a request are stored with each row that the request changes. ' \
                     'For Rails, ActiveRecord, ActiveJob, Sidekiq, Rack and the gem pg.'
  spec.license = 'PostgreSQL'
  spec.required_ruby_version = '>= 2.7'
  spec.files = Dir.chdir(__dir__) { Dir['lib/**/*.rb', 'README.md', 'LICENSE'] }
  spec.metadata = { 'rubygems_mfa_required' => 'true' }
end
