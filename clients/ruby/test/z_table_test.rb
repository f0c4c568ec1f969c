# frozen_string_literal: true

# The table of stacks in docs/how-to/set-context/ruby.md has a "yes" for what has passed in this run, and for nothing else.
# This file is the last one. It has nothing to compare if single files were asked for.

require_relative 'stack'

class ZTableTest < Minitest::Test
  # The cells "yes" as stack|version|feature. The versions of a row are separated by commas.
  def cells(page)
    head, _, *rows = page.split("\n## Stacks\n")[1].scan(/^\|.*\|$/).map { |line| line[1..-2].split('|', -1).map(&:strip) }
    rows.select { |row| row.size == head.size }.flat_map do |row|
      features = head.zip(row).drop(2).select { |_, cell| cell == 'yes' }.map(&:first)
      row[1].split(', ').product(features).map { |version, feature| "#{row[0]}|#{version}|#{feature}" }
    end
  end

  def test_each_cell_has_passed
    skip('not all files were run') unless Stack::PASSED
    expected = cells(File.read(File.join(__dir__, 'ruby.md')))
    expected.reject! { |cell| cell.end_with?('|PgBouncer') } unless Database::POOLER
    passed = File.readlines(Stack::PASSED, chomp: true).uniq
    assert_equal(expected.map { |cell| cell[/[^|]+/] }.uniq.sort, passed.map { |cell| cell[/[^|]+/] }.uniq.sort)
    # Each release of Debian has one version of a stack.
    versions = passed.map { |cell| cell[/.*(?=\|)/] }.uniq
    assert_equal(expected.select { |cell| versions.include?(cell[/.*(?=\|)/]) }.sort, passed.sort)
  end
end
