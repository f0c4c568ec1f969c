# frozen_string_literal: true

# The walk with Rails: the example, its files, its requests and its rows are those of the page docs/how-to/set-context/rails.md.
# The application runs in processes of its own, as a user starts it.

require_relative 'base'
require 'net/http'
require 'rbconfig'

class ExampleTest < Minitest::Test
  NAME = 'test_ruby_example'
  EXAMPLE = File.join(__dir__, 'example')
  PAGE = File.read(File.join(__dir__, 'rails.md'))

  # Port 0 is a free port.
  SERVER = <<~RUBY
    require './config/environment'
    require 'webrick'
    handler = begin
      require 'rackup'
      Rackup::Handler::WEBrick
    rescue LoadError
      require 'rack'
      Rack::Handler::WEBrick
    end
    options = { Host: '127.0.0.1', Port: 0, AccessLog: [], Logger: WEBrick::Log.new(nil, 0) }
    handler.run(Rails.application, **options) { |server| puts(server.config[:Port]) || $stdout.flush }
  RUBY

  class << self
    def url
      @url ||= start
    end

    private

    def start
      Database.make(NAME)
      environment = { 'PGDATABASE' => NAME, 'RAILS_ENV' => 'production' }
      system(environment, RbConfig.ruby, '-S', 'rake', 'db:migrate', chdir: EXAMPLE, out: File::NULL, exception: true)
      Database.on_server(NAME, "SELECT setval('todo_id_seq', 25)")
      output = IO.popen([environment, RbConfig.ruby, '-e', SERVER, { chdir: EXAMPLE }])
      at_exit { Process.kill(:KILL, output.pid) && output.close }
      "http://127.0.0.1:#{Integer(output.gets)}"
    end
  end

  def blocks(language)
    PAGE.scan(/^```(\w*)\n(.*?)^```$/m).filter_map { |found, text| text if found == language }
  end

  # The cells of a table that psql has printed.
  def printed(table)
    table.strip.lines[2..-2].map { |line| line.split('|').map(&:strip) }
  end

  def ask(method, path, body, headers = {})
    uri = URI(self.class.url + path)
    answer = Net::HTTP.start(uri.host, uri.port, read_timeout: 60) do |http|
      http.send_request(method, uri.path, body, { 'Content-Type' => 'application/json', **headers })
    end
    assert_kind_of(Net::HTTPSuccess, answer, answer.body)
  end

  def test_the_page_shows_the_code_of_the_example
    files = %w[db/migrate/20261130200001_start_history.rb Gemfile config/application.rb].map { |name| File.read(File.join(EXAMPLE, name)) }
    blocks('ruby').zip(files).first(3).each { |code, file| assert_includes(file, code) }
  end

  def test_the_requests_of_the_page_make_its_rows
    before = Database.changes('true', NAME) if self.class.url
    blocks('sh').last.lines.grep(/\Acurl/).each do |line|
      path, body = line.match(/localhost:3000(\S+) -d '(.*)'$/).captures
      ask(line[/ -X (\w+)/, 1] || 'POST', path, body)
    end
    images, contexts = blocks('').last.split("\n\n").map { |table| printed(table) }
    expected = images.zip(contexts).map { |image, context| [image[1], *[*image[2..3], context[2]].map { |text| JSON.parse(text) }] }
    assert_equal(5, expected.size)
    assert_equal([], before)
    assert_equal(expected, Database.changes('true', NAME))
    # Many users at a time: each row has its own.
    Array.new(20) do |user|
      Thread.new { ask('POST', '/todo', JSON.generate(task: "of #{user}"), 'X-User' => user.to_s) }
    end.each(&:join)
    rows = Database.changes("after ->> 'task' LIKE 'of %'", NAME)
    assert_equal(20, rows.size)
    rows.each { |_, _, after, context| assert_equal(after['task'], "of #{context['userId']}") }
  end
end
