# frozen_string_literal: true

# Runs the tests of the files that are named, or of all, and prints TAP.

require 'minitest'

# A reporter of Minitest.
class Tap < Minitest::AbstractReporter
  def initialize
    super
    @count = 0
    @failed = false
  end

  def record(result)
    @count += 1
    name = "#{result.klass}##{result.name}"
    if result.skipped? then puts "ok #{@count} - #{name} # SKIP #{result.failure.message}"
    elsif result.passed? then puts "ok #{@count} - #{name}"
    else
      @failed = true
      puts "not ok #{@count} - #{name}", result.failures.flat_map { |failure| describe(failure) }
    end
    $stdout.flush
  end

  def describe(failure)
    text = failure.is_a?(Minitest::UnexpectedError) ? failure.error.full_message(highlight: false) : "#{failure.location}: #{failure.message}"
    text.lines.map { |line| "# #{line.chomp[0, 2000]}" }
  end

  def report
    puts "1..#{@count}"
  end

  def passed?
    !@failed
  end
end

files = ARGV.empty? ? Dir[File.join(__dir__, '*_test.rb')].sort : ARGV.map { |name| File.join(__dir__, name) }
files.each { |file| require file }

# The order of the tests of a file. BEMI_SEED repeats it.
Minitest.seed = Integer(ENV.fetch('BEMI_SEED', rand(0xffff)))
puts "# BEMI_SEED=#{Minitest.seed}"

reporter = Tap.new
# By the name of the file, because the last one compares what has passed.
Minitest::Runnable.runnables.reject { |suite| suite.runnable_methods.empty? }.each { |suite| suite.run(reporter, {}) }
reporter.report
exit(reporter.passed?)
