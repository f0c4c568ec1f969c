# Makes a C header of the queries in this folder, one macro a file: slot.sql becomes BEMI_SQL_SLOT.
# Lines of comment are left out. A backslash is refused, because C and the query would read it
# differently.

function quote(text,    parts, n, i, quoted)
{
	n = split(text, parts, "\"")
	quoted = parts[1]
	for (i = 2; i <= n; i++)
		quoted = quoted "\\\"" parts[i]
	return quoted
}

# The line before, which ends with a newline unless it is the last one of its query.
function print_line(end)
{
	if (line != "")
		printf " \\\n\"%s%s\"", line, end
	line = ""
}

BEGIN {
	print "/* Made by make from sql/remote/, so change the files there. */"
	print "#ifndef BEMI_REMOTE_SQL_H"
	print "#define BEMI_REMOTE_SQL_H"
}

FNR == 1 {
	print_line("")
	name = FILENAME
	sub(/^.*\//, "", name)
	sub(/\.sql$/, "", name)
	printf "\n\n#define BEMI_SQL_%s", toupper(name)
}

/^[ \t]*--/ || /^[ \t]*$/ { next }

/\\/ {
	print FILENAME ": " FNR ": a backslash" > "/dev/stderr"
	failed = 1
	exit 1
}

{
	print_line("\\n")
	line = quote($0)
}

END {
	print_line("")
	if (!failed)
		print "\n\n#endif"
}
